"""Seconds for the costs of 100,000 candidates from their graphs alone, and for a budget on them.

    python bench/candidates.py

All networks of the catalogue at all widths and as many resolutions as make 100,000; one process,
one thread. The second number limits a latency, too, by a table of made-up latencies.
"""

from __future__ import annotations

import time

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.scale import Resolution, Settings
from mobilette.counting.budget import Device, parse_budget
from mobilette.counting.candidates import USUAL_WIDTHS, Shortfall, candidates
from mobilette.counting.fused_layers import fused_layers
from mobilette.counting.latency import LatencyTable, MeasuredLayer
from mobilette.counting.published import published_widths
from mobilette.verification.bench import machine

CANDIDATES = 100_000
BUDGET = "size<=500KB, ram<=256KB"
DEVICE = Device(table="made_up.json")
MADE_FROM = ("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2", "resnet18")


def made_up() -> LatencyTable:
    """Return a table of a device that takes 0.1 ns per mult-add and per element."""
    archs = [get_arch(name, Settings(resolution=96)) for name in MADE_FROM]
    layers = dict.fromkeys(step.layer for arch in archs for step in fused_layers(arch))
    return LatencyTable(
        engine="onnx",
        engine_version="none",
        precision="int8",
        threads=1,
        machine="made up",
        overhead_ms=0.02,
        corrections={},
        layers=tuple(
            MeasuredLayer(layer=each, milliseconds=(each.madds + each.elements) / 1e7)
            for each in layers
        ),
    )


def main() -> None:
    """Print both numbers."""
    names = list_models()
    points = sum(len({*USUAL_WIDTHS, *published_widths(name)}) for name in names)
    count = -(-CANDIDATES // points)
    resolutions: list[Resolution] = [*range(32, 32 + count)]
    print(machine())
    for budget in ("", BUDGET, f"{BUDGET}, latency<=2ms@{DEVICE.table}"):
        began, worked = time.perf_counter(), time.process_time()
        found = candidates(
            names,
            parse_budget(budget) if budget else (),
            resolutions=resolutions,
            tables={DEVICE: made_up()},
        )
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
        fit = 0 if isinstance(found, Shortfall) else len(found)
        print(
            f"{points * count:,} candidates, budget {budget or 'none'}: {fit:,} fit, "
            f"{seconds:.1f} s ({processor:.1f} s of processor)",
            flush=True,
        )


if __name__ == "__main__":
    main()

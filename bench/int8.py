"""Latency of int8 against fp32, by family and engine; says where int8 loses.

    python bench/int8.py [--networks mobilenet_v2,resnet18] [--only onnx,openvino] [--rounds 3]

Networks at 224x224 with random weights, which are as fast as any others, batch 1, one thread; both
precisions of an engine are timed in turns in processes of their own, as `bench/engines.py` does.
Each cell: fp32 ms, int8 ms, and how many times as fast int8 is. The last line: their mean.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.errors import InputError, one_of
from mobilette.exporters.export import TARGETS
from mobilette.verification.bench import machine

if TYPE_CHECKING:
    from bench.engines import make_cells, take_turns, versions
else:
    from engines import make_cells, take_turns, versions

NETWORKS = (
    "mobilenet_v1,mobilenet_v2,mobilenet_v3_small,mobilenet_v3_large,"
    "shufflenet_v2,squeezenet1_1,resnet18"
)
ENGINES = "onnx,openvino,litert,executorch"

Times = dict[tuple[str, str], list[float] | str]


def table(found: Times, engines: list[str], networks: list[str]) -> tuple[str, list[float]]:
    """Return the table as Markdown, and how many times as fast int8 is in each cell."""
    ratios: list[float] = []
    reasons: dict[str, int] = {}
    lines = [f"| network | {' | '.join(engines)} |", "|---" + "|--:" * len(engines) + "|"]
    for network in networks:
        cells = []
        for engine in engines:
            floats, integers = (found[f"{engine} {kind}", network] for kind in ("fp32", "int8"))
            if isinstance(floats, str) or isinstance(integers, str):
                reason = floats if isinstance(floats, str) else str(integers)
                cells.append(f"[{reasons.setdefault(reason, len(reasons) + 1)}]")
                continue
            slow, fast = median(floats), median(integers)
            ratios.append(slow / fast)
            loses = " **loses**" if fast > slow else ""
            cells.append(f"{slow:.1f}, {fast:.1f}: {slow / fast:.2f}x{loses}")
        lines.append(f"| {network} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes] if notes else lines), ratios


def main(
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = NETWORKS,
    only: Annotated[str, typer.Option(help="Targets, separated by commas.")] = ENGINES,
    rounds: int = 3,
) -> None:
    """Measure all cells and print the table."""
    both = [name for name, target in TARGETS.items() if {"fp32", "int8"} <= {*target.precisions}]
    engines = [one_of(name, both, "target with fp32 and int8") for name in only.split(",")]
    models = networks.split(",")
    print(f"{machine()}\n{versions()}")
    print(f"batch 1, one thread, {rounds} rounds in turns: medians, fp32 ms, int8 ms\n")
    with tempfile.TemporaryDirectory() as folder:
        cells = [
            cell
            for cell in make_cells(models, engines, Path(folder))
            if cell.row.endswith(("fp32", "int8"))
        ]
        text, ratios = table(take_turns(cells, rounds), engines, models)
    print(text)
    if ratios:
        print(f"\nratio: {geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))

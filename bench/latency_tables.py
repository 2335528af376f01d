"""How well latency tables predict: 30 whole networks that no table has seen, as Markdown.

    python bench/latency_tables.py FOLDER [--only onnx-fp32-1]
        [--steps export,predict,time,write,show]

Five families at six widths and resolutions, 10 classes, random weights. ``export`` writes the real
artifacts (an hour on a busy machine, once). ``predict`` makes a table (that of `mobilette bench
--table`), and two predictions of each network: by this table alone, in which layers that it lacks
are interpolated, and after measuring the layers that it lacks, alone. ``time`` measures the
artifacts as `mobilette bench` does (`mobilette.engines.timing.measure`, pinned), all in turns: the
latency is the lower quartile of the calls of the best round, as far as other processes let it be.
``write`` times the same networks in files written directly, as tables time their references: with
one thread by its processor time, which other processes do not lengthen.
``show`` prints the table; each step finds the results of those before in FOLDER.

Sides are ENGINE-PRECISION-THREADS: onnx and litert, fp32 and int8, one thread and two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.counting.latency import (
    Precision,
    predicted_latency,
    read_latency_table,
    unmeasured_layers,
    write_latency_table,
)
from mobilette.engines.timing import Request, measure
from mobilette.exporters.export import TARGETS, artifact_name, export_calibrated
from mobilette.exporters.target import Calibration
from mobilette.progress import Reporter
from mobilette.run.directory import open_run
from mobilette.verification import layer_latency
from mobilette.verification.bench import machine
from mobilette.verification.latency_table import build_latency_table, extend_latency_table

if TYPE_CHECKING:
    from bench.networks import random_run
else:
    from networks import random_run

FAMILIES = ("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2", "squeezenet1_1", "resnet18")
POINTS = ((0.35, 128), (0.5, 160), (0.75, 96), (1.0, 48), (1.0, 160), (1.4, 112))
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
SIDES = tuple(product(("onnx", "litert"), PRECISIONS, (1, 2)))
CLASSES, IMAGES, ROUNDS, SECONDS = 10, 16, 3, 0.4


def networks() -> Iterator[tuple[str, Arch]]:
    """Yield the networks and their names."""
    for (width, side), family in product(POINTS, FAMILIES):
        settings = Settings(width_mult=width, resolution=side, num_classes=CLASSES)
        yield f"{family}-{width:g}-{side}", get_arch(family, settings)


def export(folder: Path, sides: Sequence[str]) -> None:
    """Write what is missing of the artifacts of ``sides``."""
    kinds = dict.fromkeys(tuple(side.split("-")[:2]) for side in sides)
    for name, arch in networks():
        family, width, side = name.rsplit("-", 2)
        run = folder / "runs" / name
        if not run.exists():
            random_run(family, run, width_mult=float(width), resolution=int(side), classes=CLASSES)
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *arch.shape), np.uint8)
        calibration = Calibration(pixels=pixels, source="random")
        for target, precision in product(("onnx", "litert"), PRECISIONS):
            if (target, precision) not in kinds:
                continue
            out = folder / "exports" / name
            if not (out / artifact_name(TARGETS[target], precision)).exists():
                print(name, target, precision, file=sys.stderr, flush=True)
                export_calibrated(
                    open_run(run), to=target, precision=precision, calibration=calibration, out=out
                )


def predict(side: str, folder: Path) -> None:
    """Make the table of ``side`` and predict every network by it, before and after extending it."""
    engine, precision, threads = side.split("-")
    path = folder / f"{side}.table.json"
    if path.exists():
        table = read_latency_table(path)
    else:
        reporter = Reporter(remark=lambda line: print(side, line, file=sys.stderr, flush=True))
        table = build_latency_table(
            engine, precision=precision, threads=int(threads), reporter=reporter
        )
        write_latency_table(table, path)
    archs = dict(networks())
    extended = extend_latency_table(table, archs.values())
    found = {
        name: {
            "interpolated": predicted_latency(arch, table),
            "lacking": len(unmeasured_layers(arch, table)),
            "measured": predicted_latency(arch, extended),
        }
        for name, arch in archs.items()
    }
    write_latency_table(extended, folder / f"{side}.extended.json")
    (folder / f"{side}.predicted.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def time_here(side: str, folder: Path) -> None:
    """Print the calls of every network once, in milliseconds; a process of its own."""
    engine, precision, threads = side.split("-")
    (known,) = (each for each in PRECISIONS if each == precision)
    calls = {}
    for name, _ in networks():
        path = folder / "exports" / name / artifact_name(TARGETS[engine], known)
        if not path.exists():
            continue
        request = Request(path=str(path), threads=int(threads), batches=(1,), seconds=SECONDS)
        calls[name] = measure(request).calls_ms["1"]
    print(json.dumps(calls))


def time_side(side: str, folder: Path) -> None:
    """Time every network in turns, `ROUNDS` times."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        command = [sys.executable, __file__, str(folder), "--steps", "here", "--only", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for name, calls in json.loads(done.stdout.splitlines()[-1]).items():
            quartile = float(np.quantile(calls, 0.25))
            best[name] = min(best.get(name, quartile), quartile)
    load = os.getloadavg()[0]
    content = {"load": load, "milliseconds": best}
    (folder / f"{side}.timed.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def write(side: str, folder: Path) -> None:
    """Time every network in a file written directly, as tables time their reference networks."""
    engine, precision, threads = side.split("-")
    archs = dict(networks())
    request = {
        "engine": engine,
        "precision": precision,
        "threads": int(threads),
        "layers": (),
        "networks": tuple(asdict(arch) for arch in archs.values()),
        "seconds": SECONDS / 30,
    }
    best = [float("inf")] * len(archs)
    for _ in range(ROUNDS):
        command = [sys.executable, "-m", layer_latency.__name__]
        done = subprocess.run(
            command, input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True
        )
        best = list(map(min, best, json.loads(done.stdout)["networks_ms"]))
    content = {"load": os.getloadavg()[0], "milliseconds": dict(zip(archs, best, strict=True))}
    (folder / f"{side}.written.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def show(sides: list[str], folder: Path) -> None:
    """Print the errors as Markdown, and the networks that are furthest off."""
    print(f"{machine()}\n")
    print(
        "| side | files | networks | layers measured: median | worst | interpolated: median "
        "| worst | ms | load |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    worst: list[tuple[float, str]] = []
    for side, kind in product(sides, ("timed", "written")):
        files = [folder / f"{side}.{each}.json" for each in ("predicted", kind)]
        if not all(file.exists() for file in files):
            continue
        predicted, timed = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        real: dict[str, float] = timed["milliseconds"]
        row = [" ".join(side.split("-")), "artifacts" if kind == "timed" else "written directly"]
        row.append(str(len(real)))
        for way in ("measured", "interpolated"):
            errors = {name: predicted[name][way] / real[name] - 1 for name in real}
            sizes = np.abs(list(errors.values()))
            row += [f"{100 * np.median(sizes):.1f} %", f"{100 * sizes.max():.1f} %"]
            if way == "measured":
                worst += [(error, f"{side} {name} {kind}") for name, error in errors.items()]
        row += [f"{min(real.values()):.2g} to {max(real.values()):.2g}", f"{timed['load']:.1f}"]
        print(f"| {' | '.join(row)} |")
    worst.sort(key=lambda each: -abs(each[0]))
    print()
    for error, what in worst[:10]:
        print(f"{100 * error:+.1f} % {what}")


def main(
    folder: Annotated[Path, typer.Argument()],
    steps: Annotated[str, typer.Option()] = "export,predict,time,write,show",
    only: Annotated[str, typer.Option()] = "",
) -> None:
    """Do the steps for all sides, or those of ``--only``."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = only.split(",") if only else ["-".join(map(str, each)) for each in SIDES]
    doing: dict[str, Any] = {
        "predict": predict,
        "time": time_side,
        "here": time_here,
        "write": write,
    }
    for step in steps.split(","):
        if step == "export":
            export(folder, sides)
        elif step == "show":
            show(sides, folder)
        else:
            for side in sides:
                doing[step](side, folder)


if __name__ == "__main__":
    typer.run(main)

"""Latency of one image at 224x224 by engine and precision: the table of RUNTIMES.md in one run.

    python bench/engines.py [--networks mobilenet_v2,resnet18] [--only onnx,torch] [--rounds 3]

Rows: PyTorch eager (NCHW), torch.compile (frozen weights, channels_last), and every target and
precision that Mobilette exports to and can execute here; columns: networks with random weights,
which are as fast as any others. Batch 1, one thread, each cell in a process of its own, all taking
turns; the median of the calls of each round, and of these the median, in ms. A cell that cannot be
measured says why below the table. int8 is calibrated with random images, which is enough for its
speed and for nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mobilette.engines.timing import Request
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, artifact_name, export_calibrated
from mobilette.exporters.target import Calibration
from mobilette.run.directory import Run
from mobilette.verification.bench import machine, time_once

if TYPE_CHECKING:
    from bench.networks import random_run
else:
    from networks import random_run

NETWORKS = "mobilenet_v2,mobilenet_v3_large,resnet18,mobilenet_v1"
RESOLUTION, IMAGES = 224, 32
SECONDS = 2.0
TORCH = {"torch-eager": "torch eager NCHW", "torch-compile": "torch.compile freezing channels_last"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of one network: how its latency is measured, or why it cannot be."""

    row: str
    network: str
    time: Callable[[], float] | None = None
    reason: str = ""


def make_cells(networks: list[str], only: list[str] | None, folder: Path) -> Iterator[Cell]:
    """Yield the cells of all rows, each artifact exported now."""
    for network in networks:
        run = random_run(network, folder / "runs" / network, resolution=RESOLUTION)
        for name, row in TORCH.items():
            if only is None or "torch" in only:
                yield Cell(row=row, network=network, time=_torch_timer(name, network))
        yield from _exported(run, network, only, folder / "exports" / network)


def _exported(run: Run, network: str, only: list[str] | None, out: Path) -> Iterator[Cell]:
    generator = np.random.default_rng(0)
    shape = (IMAGES, run.arch.in_channels, RESOLUTION, RESOLUTION)
    pixels = generator.integers(0, 256, shape, np.uint8)
    calibration = Calibration(pixels=pixels, source="random")
    for target in TARGETS.values():
        if only is not None and target.name not in only:
            continue
        for precision in target.precisions:
            row = f"{target.name} {precision}"
            print(f"exporting {network} to {row}", file=sys.stderr)
            if not target.verifiable:
                yield Cell(row=row, network=network, reason="nothing here executes it")
                continue
            try:
                export_calibrated(
                    run, to=target.name, precision=precision, calibration=calibration, out=out
                )
            except InputError as error:
                yield Cell(row=row, network=network, reason=str(error))
                continue
            path = out / artifact_name(target, precision)
            yield Cell(row=row, network=network, time=_artifact_timer(path))


def _artifact_timer(path: Path) -> Callable[[], float]:
    request = Request(path=str(path), threads=1, batches=(1,), seconds=SECONDS)
    return lambda: median(time_once(request).calls_ms["1"])


def _torch_timer(side: str, network: str) -> Callable[[], float]:
    command = [sys.executable, __file__, f"--side={side}", f"--networks={network}"]

    def run() -> float:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise InputError((done.stderr.strip().splitlines() or ["it ended"])[-1][:200])
        calls: list[float] = json.loads(done.stdout.splitlines()[-1])
        return median(calls)

    return run


def time_torch(side: str, model: str) -> list[float]:
    """Return the milliseconds of calls of PyTorch itself, fp32, in this process."""
    import time

    import torch

    from mobilette import create_model
    from mobilette.data.machine import pin

    pin(1)
    torch.set_num_threads(1)
    network = create_model(model, num_classes=1000, resolution=RESOLUTION).eval()
    pixels = torch.rand(1, 3, RESOLUTION, RESOLUTION)
    call: Callable[[torch.Tensor], torch.Tensor] = network
    if side == "torch-compile":
        import torch._inductor.config as inductor

        inductor.freezing = True
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        call = torch.compile(network)
    calls: list[float] = []
    with torch.inference_mode():
        for _ in range(5):
            call(pixels)
        began = time.perf_counter()
        while len(calls) < 10 or time.perf_counter() - began < SECONDS:
            started = time.perf_counter()
            call(pixels)
            calls.append((time.perf_counter() - started) * 1e3)
    return calls


def take_turns(cells: list[Cell], rounds: int) -> dict[tuple[str, str], list[float] | str]:
    """Return what each cell took in every round, or why it cannot be measured."""
    found: dict[tuple[str, str], list[float] | str] = {
        (cell.row, cell.network): [] if cell.time is not None else cell.reason for cell in cells
    }
    for turn in range(rounds):
        for cell in cells:
            times = found[cell.row, cell.network]
            if cell.time is None or isinstance(times, str):
                continue
            try:
                times.append(cell.time())
            except InputError as error:
                found[cell.row, cell.network] = str(error)
                continue
            print(
                f"round {turn + 1} of {rounds}: {cell.row}, {cell.network}: {times[-1]:.2f} ms",
                file=sys.stderr,
            )
    return found


def table(found: dict[tuple[str, str], list[float] | str]) -> str:
    """Return the table as Markdown, and below it why cells are empty."""
    rows, networks = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    lines = [
        f"| engine, precision | {' | '.join(networks)} |",
        "|---" + "|--:" * len(networks) + "|",
    ]
    reasons: dict[str, int] = {}
    for row in rows:
        cells = []
        for network in networks:
            times = found[row, network]
            if isinstance(times, str):
                cells.append(f"[{reasons.setdefault(times, len(reasons) + 1)}]")
            else:
                cells.append(f"{median(times):.1f} ({min(times):.1f} to {max(times):.1f})")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes] if notes else lines)


def versions() -> str:
    """Return the versions of what the rows are executed by."""
    known = {"torch", "onnxruntime", *(name for t in TARGETS.values() for name in t.packages)}
    found = []
    for name in sorted(known):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return ", ".join(found)


def main(
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = NETWORKS,
    only: Annotated[str | None, typer.Option(help="torch, or targets: some of the rows.")] = None,
    rounds: int = 3,
    side: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure all cells and print the table."""
    if side is not None:
        print(json.dumps(time_torch(side, networks)))
        return
    print(
        f"{machine()}\n{versions()}\nbatch 1, one thread, {rounds} rounds in turns: median (range)"
    )
    with tempfile.TemporaryDirectory() as folder:
        chosen = only.split(",") if only is not None else None
        cells = list(make_cells(networks.split(","), chosen, Path(folder)))
        print("\n" + table(take_turns(cells, rounds)))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))

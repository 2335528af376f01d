"""Answers a second of one predictor that 1, 2, 4 and 8 threads ask at once, for every engine.

    python bench/threads.py [--model mobilenet_v2] [--only onnx,run] [--threads 1] [--rounds 3]

Random weights (as fast as any others) at 224x224, one image a call. ``run`` is PyTorch. Every
cell is a process of its own: it loads the predictor with ``--threads`` threads a call, asks it
twice from every thread, then all threads ask for ``--seconds`` from one start; cells take turns.
Cells are medians of the rounds, with their range. Last lines: `ratio: X (ENGINE)`, 8 threads by 1,
the median of the rounds' ratios. No ratio can be above the number of cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mobilette.engines.load import load
from mobilette.engines.targets import ENGINES
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, export_calibrated
from mobilette.exporters.target import Calibration
from mobilette.verification.bench import machine

if TYPE_CHECKING:
    from bench.engines import versions
    from bench.networks import random_run
else:
    from engines import versions
    from networks import random_run

ASKING = (1, 2, 4, 8)
WARM_UP = 2


def answers_a_second(path: Path, *, asking: int, threads: int, seconds: float) -> float:
    """Return how many answers ``asking`` threads get a second, each image another one."""
    predictor = load(path, threads=threads)
    arch = predictor.arch
    shape = (8, *arch.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    counts, start = [0] * asking, threading.Barrier(asking + 1)
    end = 0.0

    def ask(number: int) -> None:
        for _ in range(WARM_UP):
            predictor.batch_logits(pixels[:1])
        start.wait()
        start.wait()
        while time.perf_counter() < end:
            turn = counts[number] % len(pixels)
            predictor.batch_logits(pixels[turn : turn + 1])
            counts[number] += 1

    pool = [threading.Thread(target=ask, args=(number,)) for number in range(asking)]
    for thread in pool:
        thread.start()
    start.wait()  # all are warm
    began = time.perf_counter()
    end = began + seconds
    start.wait()
    for thread in pool:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def measure_cell(path: Path, *, asking: int, threads: int, seconds: float) -> float:
    """Return `answers_a_second` of a process of its own."""
    command = [sys.executable, __file__, f"--path={path}", f"--asking={asking}"]
    command += [f"--threads={threads}", f"--seconds={seconds}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise InputError((done.stderr.strip().splitlines() or ["it ended"])[-1][:200])
    return float(done.stdout.splitlines()[-1])


def make_models(model: str, only: list[str] | None, folder: Path) -> dict[str, Path]:
    """Return the run and its artifacts, or none of a target whose packages are missing."""
    run = random_run(model, folder / "run")
    shape = (8, *run.arch.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = {"run": run.path}
    for name in ENGINES:
        if only is not None and name not in only:
            continue
        try:
            artifact = export_calibrated(
                run,
                to=name,
                precision=TARGETS[name].precisions[0],
                calibration=Calibration(pixels=pixels, source="random"),
                out=folder / "exports",
            )
            load(artifact.path)
        except InputError as error:
            print(f"{name}: left out: {error}")
            continue
        found[name] = artifact.path
    return {name: path for name, path in found.items() if only is None or name in only}


def main(
    model: str = "mobilenet_v2",
    only: Annotated[str | None, typer.Option(help="Targets with commas, and run.")] = None,
    threads: Annotated[int, typer.Option(help="Of the engine, in one call.")] = 1,
    rounds: int = 3,
    seconds: float = 2.0,
    path: Annotated[Path | None, typer.Option(hidden=True)] = None,
    asking: Annotated[int, typer.Option(hidden=True)] = 1,
) -> None:
    """Measure all cells in turns and print the table and the ratios."""
    if path is not None:
        print(answers_a_second(path, asking=asking, threads=threads, seconds=seconds))
        return
    print(f"{machine()}\n{versions()}")
    print(f"{model} at 224x224, one image a call, {threads} thread(s) of the engine in a call")
    print(f"{rounds} rounds of {seconds:g} s after {WARM_UP} calls a thread: median (range)\n")
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(model, only.split(",") if only else None, Path(folder))
        rates: dict[str, dict[int, list[float]]] = {
            name: {count: [] for count in ASKING} for name in models
        }
        for _ in range(rounds):
            for name, place in models.items():
                for count in ASKING:
                    rate = measure_cell(place, asking=count, threads=threads, seconds=seconds)
                    rates[name][count].append(rate)
                    print(f"{name}, {count} threads: {rate:.1f} a second", file=sys.stderr)
    print(f"| answers a second | {' | '.join(f'{count} threads' for count in ASKING)} |")
    print("|---" + "|--:" * len(ASKING) + "|")
    for name, row in rates.items():
        cells = [f"{median(x):.1f} ({min(x):.1f} to {max(x):.1f})" for x in row.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    for name, row in rates.items():
        ratios = [many / one for many, one in zip(row[ASKING[-1]], row[1], strict=True)]
        print(f"ratio: {median(ratios):.2f} ({name})")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))

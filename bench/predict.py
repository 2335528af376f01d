"""Images a second of `predict` over a folder, beside those of the engine on decoded pixels.

    python bench/predict.py [--models mobilenet_v3_small,mobilenet_v2] [--threads 1] [--workers 1]

ONNX Runtime, random weights (as fast as any others), the first 1,000 images of
../shared/data/imagenette-small (repeated where a set has fewer). Four sides, each in a process of
its own, taking turns, after a warm-up; medians of the rounds:

- engine: its pixels are in memory;
- decoding: reading, decoding and resizing alone, by as many threads as decode for `predict`;
- predict: `Predictor.predict_each`, which begins with the names of files;
- job: what `mobilette predict FOLDER --out answers.jsonl` does after loading, with its file.

No side can be faster than the slower of engine and decoding, which may be decoding where there are
few cores: the last ratio is to that. Beside the rates stands the CPU time of the thread that asks
the engine: on cores that other programs use as well, it tells more than the clock does.
Last lines: `ratio: X (MODEL)`, the job by the engine, and by the slower of engine and decoding.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mobilette.data.ahead import computed_ahead
from mobilette.data.decoding import decode
from mobilette.data.machine import usable_cores
from mobilette.data.sources import list_images
from mobilette.engines.answer_files import answer_file
from mobilette.engines.load import load
from mobilette.engines.prediction_job import write_answers
from mobilette.engines.predictor import AHEAD, Predictor
from mobilette.errors import InputError
from mobilette.verification.bench import machine
from mobilette.workflows.export import export

if TYPE_CHECKING:
    from bench.networks import random_run
else:
    from networks import random_run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WARM_UP = 64


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Images a second by the clock, and by the CPU time of the thread that asks the engine."""

    clock: float
    thread: float


def time_side(predictor: Predictor, images: list[Path], *, side: str, workers: int | None) -> Rate:
    """Return the rates of one side; with an engine of one thread ``thread`` counts its work."""
    run = SIDES[side](predictor, images, workers)
    run(WARM_UP)
    started, used = time.perf_counter(), time.thread_time()
    answers = run(len(images))
    seconds, cpu = time.perf_counter() - started, time.thread_time() - used
    assert answers == len(images)
    return Rate(clock=answers / seconds, thread=answers / max(cpu, 1e-9))


Run = Callable[[int], int]
"""Answers the first so many images; returns how many it answered."""


def engine(predictor: Predictor, images: list[Path], workers: int | None) -> Run:
    """Decode everything beforehand."""
    geometry, length = predictor.preprocess.geometry, predictor.arch.resolution
    pixels = np.stack([geometry(decode(path), length) for path in images])
    return lambda count: len(predictor.logits(pixels[:count]))


def decoding(predictor: Predictor, images: list[Path], workers: int | None) -> Run:
    """Use no engine."""

    def read(path: Path) -> int:
        return len(predictor.preprocess.geometry(decode(path), predictor.arch.resolution))

    threads = usable_cores() if workers is None else workers
    return lambda count: sum(
        1 for _ in computed_ahead(read, images[:count], threads=threads, ahead=AHEAD)
    )


def predict(predictor: Predictor, images: list[Path], workers: int | None) -> Run:
    """Use the public method."""
    return lambda count: sum(1 for _ in predictor.predict_each(images[:count], workers=workers))


def job(predictor: Predictor, images: list[Path], workers: int | None) -> Run:
    """Write the answers to a file of JSON lines."""

    def run(count: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            file = answer_file(Path(folder) / "answers.jsonl", top=5)
            return write_answers(predictor, images[:count], file, workers=workers).images

    return run


SIDES = {"engine": engine, "decoding": decoding, "predict": predict, "job": job}


def run_side(model: Path, data: Path, side: str, options: list[str], threads: int) -> Rate:
    """Time one side in a process of its own."""
    command = [sys.executable, __file__, f"--artifact={model}", f"--data={data}", f"--side={side}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise InputError(f"{side} failed:\n{done.stderr[-2_000:]}")
    return Rate(**json.loads(done.stdout))


def choose_images(data: Path, count: int) -> list[Path]:
    """Return ``count`` images of ``data``, repeated if there are fewer."""
    return list(itertools.islice(itertools.cycle(map(Path, list_images([data]))), count))


def main(
    models: Annotated[str, typer.Option(help="Names, separated by commas.")] = (
        "mobilenet_v3_small,mobilenet_v2"
    ),
    data: Path = SHARED / "imagenette-small",
    images: int = 1000,
    rounds: int = 3,
    threads: Annotated[int, typer.Option(help="Of the engine.")] = 1,
    workers: Annotated[int | None, typer.Option(help="Threads that decode.")] = None,
    artifact: Annotated[Path | None, typer.Option(hidden=True)] = None,
    side: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure both sides for each network and print the ratios."""
    if artifact is not None and side is not None:
        predictor = load(artifact, threads=threads)
        chosen = choose_images(data, images)
        print(json.dumps(asdict(time_side(predictor, chosen, side=side, workers=workers))))
        return
    print(f"{machine()}; {threads} threads of the engine, {images:,} images of {data.name}")
    options = [f"--images={images}", f"--threads={threads}"]
    options += [f"--workers={workers}"] if workers is not None else []
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models.split(","):
            exported = export(
                random_run(model, Path(folder) / "runs" / model), out=Path(folder) / model
            ).path
            rates: dict[str, list[Rate]] = {side: [] for side in SIDES}
            for _ in range(rounds):
                for name, found in rates.items():
                    found.append(run_side(exported, data, name, options, threads))
            for name, found in rates.items():
                clocks = [rate.clock for rate in found]
                by_cpu = median(rate.thread for rate in found)
                asking = f", {by_cpu:.1f} a second of the asking thread's CPU time"
                print(
                    f"{model}, {name}: {median(clocks):.1f} images a second "
                    f"({min(clocks):.1f} to {max(clocks):.1f}){asking * (name != 'decoding')}"
                )
            rounds_of = [
                dict(zip(rates, each, strict=True)) for each in zip(*rates.values(), strict=True)
            ]
            by_thread = median(each["job"].thread / each["engine"].thread for each in rounds_of)
            print(f"{model}: job by engine {by_thread:.2f} by CPU time")
            for name, limit in (("engine", ("engine",)), ("limit", ("engine", "decoding"))):
                ratio = median(
                    each["job"].clock / min(each[side].clock for side in limit)
                    for each in rounds_of
                )
                what = "by the engine" if name == "engine" else "by the slower of both"
                ratios.append(f"ratio: {ratio:.2f} ({model}, {what})")
    print("\n".join(ratios))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))

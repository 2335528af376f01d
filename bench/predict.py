"""Images a second of `predict` over a folder, beside those of the engine on decoded pixels.

    python bench/predict.py [--models mobilenet_v3_small,mobilenet_v2] [--threads 1] [--workers 1]

ONNX Runtime, random weights (as fast as any others), the first 1,000 images of
../shared/data/imagenette-small (repeated where a set has fewer). Each side in a process of its own,
taking turns, after a warm-up; medians of the rounds. The engine's side has its pixels in memory;
`predict` begins with the names of files. Beside the rates stands the CPU time of the thread that
asks the engine: on cores that other programs use as well, it tells more than the clock does.
Last lines: `ratio: X (MODEL)`, predict by engine.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mobilette.data.decoding import decode
from mobilette.data.sources import list_images
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
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
    if side == "engine":
        geometry, length = predictor.preprocess.geometry, predictor.arch.resolution
        pixels = np.stack([geometry(decode(path), length) for path in images])
        predictor.logits(pixels[:WARM_UP])
    else:
        list(predictor.predict_each(images[:WARM_UP], workers=workers))
    started, used = time.perf_counter(), time.thread_time()
    if side == "engine":
        answers = len(predictor.logits(pixels))
    else:
        answers = sum(1 for _ in predictor.predict_each(images, workers=workers))
    seconds, cpu = time.perf_counter() - started, time.thread_time() - used
    assert answers == len(images)
    return Rate(clock=answers / seconds, thread=answers / cpu)


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
            rates: dict[str, list[Rate]] = {"engine": [], "predict": []}
            for _ in range(rounds):
                for name, found in rates.items():
                    found.append(run_side(exported, data, name, options, threads))
            for name, found in rates.items():
                clocks = [rate.clock for rate in found]
                by_cpu = median(rate.thread for rate in found)
                print(
                    f"{model}, {name}: {median(clocks):.1f} images a second "
                    f"({min(clocks):.1f} to {max(clocks):.1f}), {by_cpu:.1f} "
                    "a second of the asking thread's CPU time"
                )
            pairs = list(zip(rates["predict"], rates["engine"], strict=True))
            by_thread = median(a.thread / b.thread for a, b in pairs)
            print(f"{model}: {by_thread:.2f} by CPU time")
            ratios.append(f"ratio: {median(a.clock / b.clock for a, b in pairs):.2f} ({model})")
    print("\n".join(ratios))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))

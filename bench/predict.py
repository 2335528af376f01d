"""Pictures a second of `predict` over a folder, beside those of the engine on decoded pixels.

    python bench/predict.py [--models mobilenet_v3_small,mobilenet_v2] [--threads 1] [--workers 1]

ONNX Runtime, random weights (as fast as any others), the first 1,000 pictures of
../shared/data/imagenette-small (repeated where a set has fewer). Each side in a process of its own,
taking turns, after a warm-up; medians of the rounds. The engine's side has its pixels in memory;
`predict` begins with the names of files. Last lines: `ratio: X (MODEL)`, predict by engine.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mobilette.data.decoding import decode
from mobilette.data.sources import list_pictures
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.exporters.export import export
from mobilette.verification.benchmark import machine

if TYPE_CHECKING:
    from bench.networks import random_run
else:
    from networks import random_run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WARM_UP = 64


def time_side(
    predictor: Predictor, pictures: list[Path], *, side: str, workers: int | None
) -> float:
    """Return the pictures a second of one side."""
    if side == "engine":
        geometry, side_length = predictor.preprocess.geometry, predictor.arch.resolution
        pixels = np.stack([geometry(decode(path), side_length) for path in pictures])
        predictor.logits(pixels[:WARM_UP])
        started = time.perf_counter()
        predictor.logits(pixels)
    else:
        list(predictor.predict_each(pictures[:WARM_UP], workers=workers))
        started = time.perf_counter()
        answers = sum(1 for _ in predictor.predict_each(pictures, workers=workers))
        assert answers == len(pictures)
    return len(pictures) / (time.perf_counter() - started)


def run_side(model: Path, data: Path, side: str, options: list[str], threads: int) -> float:
    """Time one side in a process of its own."""
    command = [sys.executable, __file__, f"--artifact={model}", f"--data={data}", f"--side={side}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise InputError(f"{side} failed:\n{done.stderr[-2_000:]}")
    rate: float = json.loads(done.stdout)
    return rate


def choose_pictures(data: Path, count: int) -> list[Path]:
    """Return ``count`` pictures of ``data``, repeated if there are fewer."""
    return list(itertools.islice(itertools.cycle(list_pictures([data])), count))


def main(
    models: Annotated[str, typer.Option(help="Names, separated by commas.")] = (
        "mobilenet_v3_small,mobilenet_v2"
    ),
    data: Path = SHARED / "imagenette-small",
    pictures: int = 1000,
    rounds: int = 3,
    threads: Annotated[int, typer.Option(help="Of the engine.")] = 1,
    workers: Annotated[int | None, typer.Option(help="Threads that decode.")] = None,
    artifact: Annotated[Path | None, typer.Option(hidden=True)] = None,
    side: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure both sides for each network and print the ratios."""
    if artifact is not None and side is not None:
        predictor = load(artifact, threads=threads)
        chosen = choose_pictures(data, pictures)
        print(json.dumps(time_side(predictor, chosen, side=side, workers=workers)))
        return
    print(f"{machine()}; {threads} threads of the engine, {pictures:,} pictures of {data.name}")
    options = [f"--pictures={pictures}", f"--threads={threads}"]
    options += [f"--workers={workers}"] if workers is not None else []
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models.split(","):
            exported = export(
                random_run(model, Path(folder) / "runs" / model), out=Path(folder) / model
            ).path
            rates: dict[str, list[float]] = {"engine": [], "predict": []}
            for _ in range(rounds):
                for name, found in rates.items():
                    found.append(run_side(exported, data, name, options, threads))
            for name, found in rates.items():
                spread = f"{min(found):.1f} to {max(found):.1f}"
                print(f"{model}, {name}: {median(found):.1f} pictures a second ({spread})")
            each = [a / b for a, b in zip(rates["predict"], rates["engine"], strict=True)]
            ratios.append(f"ratio: {median(each):.2f} ({model})")
    print("\n".join(ratios))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))

"""The README's walk on a flat folder: does the accuracy hold on pictures that were kept aside?

A divided set is laid out flat, a third of every class is kept aside, a network is trained on the
rest, and `evaluate` measures it: on the flat folder, on all of it with ``--include-trained``, and
on the pictures kept aside.

    python bench/held_out.py DATA [--epochs 12] [--resolution 64] [--seed 0]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from random import Random
from typing import Annotated

import typer

import mobilette
from mobilette.data.names import images_among
from mobilette.folders import scratch
from mobilette.run.metrics import wilson_interval


def lay_out(data: Path, root: Path, seed: int) -> tuple[Path, Path]:
    """Copy the pictures of ``data`` into two flat folders, two thirds of each class and a third."""
    flat, aside = root / "flat", root / "aside"
    classes: dict[str, list[Path]] = {}
    for path in images_among(sorted(data.rglob("*"))):
        classes.setdefault(path.parent.name, []).append(path)
    for name, paths in classes.items():
        Random(seed).shuffle(paths)
        for number, path in enumerate(paths):
            target = (aside if number < len(paths) // 3 else flat) / name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / f"{path.parents[1].name}-{path.name}")
    return flat, aside


def main(
    data: Path,
    epochs: Annotated[int, typer.Option()] = 12,
    resolution: Annotated[int, typer.Option()] = 64,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train and measure, and print the three accuracies."""
    with scratch() as root:
        flat, aside = lay_out(data, root, seed)
        run = mobilette.train(
            flat,
            model="mobilenet_v2",
            width_mult=0.5,
            resolution=resolution,
            epochs=epochs,
            seed=seed,
            start="scratch",
            out=root / "run",
        )
        found = {
            "evaluate FLAT": mobilette.evaluate(run, flat),
            "evaluate FLAT --include-trained": mobilette.evaluate(run, flat, include_trained=True),
            "evaluate ASIDE": mobilette.evaluate(run, aside),
        }
    for what, metrics in found.items():
        low, high = wilson_interval(metrics.top1, metrics.images)
        print(
            f"{what:32} {metrics.top1:.2%} (95%: {low:.2%} to {high:.2%}), {metrics.images} images,"
            f" {metrics.trained_left_out} left out"
        )
    low, high = wilson_interval(found["evaluate ASIDE"].top1, found["evaluate ASIDE"].images)
    inside = low <= found["evaluate FLAT"].top1 <= high
    print(f"the first is {'inside' if inside else 'OUTSIDE'} the interval of the last")
    sys.exit(0 if inside else 1)


if __name__ == "__main__":
    typer.run(main)

"""Whether our kernels change what is learnt: training with and without them, at equal epochs.

    python bench/kernels_accuracy.py OUT [--seeds 0,1,2] [--threads 1] [--sets cifar10-4k]

MobileNet V2 x0.5 from scratch on `cifar10-4k` at 32x32 for 12 epochs, and published V2 on
`imagenette-small` at 128x128 for 3; each seed with the kernels and without (an empty ``CXX``), one
after the other, in processes of their own. Needs images and weights of ../shared. What is in OUT
already is not trained again. Prints top-1 on ``val`` by seed, means, and the seconds until each
first has the top-1 that all of its set have reached.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import typer

SHARED = Path(__file__).resolve().parents[2] / "shared"
PUBLISHED = SHARED / "weights" / "mobilenet_v2_1.0_224_imagenet_int8.tflite"
SETS = {
    "cifar10-4k": ("--width-mult", "0.5", "--from", "scratch", "--epochs", "12"),
    "imagenette-small": ("--resolution", "128", "--from", str(PUBLISHED), "--epochs", "3"),
}
WITH, WITHOUT = "kernels", "PyTorch"


def trained(name: str, side: str, seed: int, threads: int, out: Path) -> Path:
    """Return the run of a set, side and seed, trained if need be."""
    run = out / f"{name}-{side}-{seed}"
    if not (run / "best.safetensors").exists():
        command = [sys.executable, "-m", "mobilette", "train", str(SHARED / "data" / name)]
        command += ["--model", "mobilenet_v2", *SETS[name], "--seed", str(seed), "--force"]
        command += ["--set", "validate_every=1", "--threads", str(threads), "--out", str(run)]
        environment = dict(os.environ) | ({"CXX": ""} if side == WITHOUT else {})
        subprocess.run(command, check=True, env=environment)
    return run


def history(run: Path) -> list[tuple[float, float]]:
    """Return the seconds and top-1 of each validation."""
    with (run / "metrics.csv").open(encoding="utf-8") as lines:
        return [(float(row["seconds"]), float(row["top1"])) for row in csv.DictReader(lines)]


def main(
    out: Path,
    seeds: Annotated[str, typer.Option()] = "0,1,2",
    threads: Annotated[int, typer.Option()] = 1,
    sets: Annotated[str, typer.Option()] = ",".join(SETS),
) -> None:
    """Train what is missing and print the table."""
    numbers = [int(seed) for seed in seeds.split(",")]
    names = sets.split(",")
    runs = {
        (name, side, seed): history(trained(name, side, seed, threads, out))
        for name, seed, side in product(names, numbers, (WITH, WITHOUT))
    }
    print(f"| set | side | {' | '.join(f'seed {seed}' for seed in numbers)} | mean | seconds to |")
    print(f"|---|---|{'--:|' * (len(numbers) + 2)}")
    for name in names:
        reached = min(max(top1 for _, top1 in run) for key, run in runs.items() if key[0] == name)
        for side in (WITH, WITHOUT):
            own = [runs[name, side, seed] for seed in numbers]
            best = [max(top1 for _, top1 in run) for run in own]
            until = [next(seconds for seconds, top1 in run if top1 >= reached) for run in own]
            spread = f" ± {100 * stdev(best):.1f}" if len(best) > 1 else ""
            cells = " | ".join(f"{top1:.1%}" for top1 in best)
            print(
                f"| {name} | {side} | {cells} | {mean(best):.1%}{spread} "
                f"| {mean(until):.0f} s to {reached:.1%} |"
            )


if __name__ == "__main__":
    typer.run(main)

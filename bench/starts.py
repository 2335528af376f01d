"""What published weights are worth: the same network from several starts, in equal time.

    python bench/starts.py [--time 120s] [--rounds 3] [--only flowers] [--resolution 160]

`imagenette` and `flowers` compare starts of one network; `transfer` the networks whose weights are
at hand, with a new classifier and with the weights' own (`weights import --classes`).

Each start is a process of its own, one after the other, in rounds with other seeds. Needs the
published files and images of ../shared. Prints a Markdown table: median and range of the best
top-1 on held-out images, and how many epochs the time was enough for. Wall-clock counts
everything: reading the images, slicing, measuring batch norms, validation.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import typer

SHARED = Path(__file__).resolve().parents[2] / "shared"
V1 = ("--model", "mobilenet_v1", "--width-mult", "0.25")
V2 = ("--model", "mobilenet_v2", "--width-mult", "0.35")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published file and what has to be said about it."""

    file: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of one experiment; ``published`` names a key of `PUBLISHED`."""

    name: str
    network: tuple[str, ...]
    published: str | None


PUBLISHED = {
    "v1_0.25": Published(
        file="mobilenet_v1_0.25_224_imagenet_keras.h5",
        options=("--as", "mobilenet_v1", "--width-mult", "0.25", "--preprocess", "tf"),
    ),
    "v1_0.75": Published(
        file="mobilenet_v1_0.75_224_imagenet_tfjs",
        options=("--as", "mobilenet_v1", "--width-mult", "0.75", "--preprocess", "tf"),
    ),
    "v2_1.0": Published(
        file="mobilenet_v2_1.0_224_imagenet_int8.tflite", options=("--as", "mobilenet_v2")
    ),
    "v3_small": Published(
        file="mobilenet_v3_small_1.0_224_imagenet_int8weights.tflite",
        options=("--as", "mobilenet_v3_small"),
    ),
    "v3_large_minimalistic": Published(
        file="mobilenet_v3_large_minimalistic_224_imagenet_uint8.tflite",
        options=("--as", "mobilenet_v3_large_minimalistic"),
    ),
}
KNOWN = " that knows the classes"  # at the end of a key of `PUBLISHED`
SLICING = (
    Start(name="V1 0.25, published 0.25", network=V1, published="v1_0.25"),
    Start(name="V1 0.25, sliced from the published 0.75", network=V1, published="v1_0.75"),
    Start(name="V1 0.25, from scratch", network=V1, published=None),
    Start(name="V2 0.35, sliced from the published 1.0 (int8)", network=V2, published="v2_1.0"),
    Start(name="V2 0.35, from scratch", network=V2, published=None),
)
FLOWERS = (
    Start(name="V1 0.25, published", network=V1, published="v1_0.25"),
    Start(name="V1 0.25, from scratch", network=V1, published=None),
)
TRANSFER = tuple(
    Start(name=key + known, network=(), published=key + known)
    for key in PUBLISHED
    for known in ("", KNOWN)
)
EXPERIMENTS = {
    "imagenette": (SHARED / "data" / "imagenette-small", 128, "120s", SLICING),
    "flowers": (SHARED / "data" / "flowers200", 224, "60s", FLOWERS),
    "transfer": (SHARED / "data" / "imagenette-small", 224, "180s", TRANSFER),
}


def main(
    time: str = "", rounds: int = 3, only: str = "", resolution: int = 0, starts: str = ""
) -> None:
    """Run the experiments (or ``only`` one) and print a table for each.

    ``starts``: only those whose name has one of these words, with commas between them.
    """
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '-')}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, (data, usual_resolution, usual_time, all_starts) in EXPERIMENTS.items():
            chosen = [
                start
                for start in all_starts
                if any(word in start.name for word in starts.split(","))
            ]
            if only not in ("", name) or not chosen:
                continue
            for key in {start.published for start in chosen if start.published}:
                import_weights(key, Path(folder))
            side = resolution or usual_resolution
            measure(Path(folder), data, side, time or usual_time, chosen, rounds)


def import_weights(key: str, folder: Path) -> None:
    """Make a run of a published file in ``folder``, under its key."""
    published = PUBLISHED[key.removesuffix(KNOWN)]
    options = published.options
    if key.endswith(KNOWN):
        options += ("--classes", str(SHARED / "data" / "imagenet_class_index.json"))
    source, out = str(SHARED / "weights" / published.file), str(folder / key)
    mobilette("weights", "import", source, *options, "--out", out, "--force")


def measure(
    folder: Path, data: Path, resolution: int, time: str, starts: list[Start], rounds: int
) -> None:
    """Run every start ``rounds`` times, taking turns, and print the table."""
    results: dict[str, list[tuple[float, int]]] = {start.name: [] for start in starts}
    for seed in range(rounds):
        for start in starts:
            source = str(folder / start.published) if start.published else "scratch"
            options = ("--resolution", str(resolution), "--time", time, "--seed", str(seed))
            out = ("--from", source, "--out", str(folder / "run"), "--force")
            answer = json.loads(mobilette("train", str(data), *start.network, *options, *out))
            results[start.name].append((answer["top1"], answer["epochs"]))
            print(f"  seed {seed}, {start.name}: {answer['top1']:.1%}", file=sys.stderr)
    print(f"\n{data.name}, {resolution} pixels, {time} each, {rounds} rounds\n")
    print("| start | top-1: median (range) | epochs |")
    print("|---|---|---|")
    for name, runs in results.items():
        top1 = [100 * value for value, _ in runs]
        epochs = [count for _, count in runs]
        print(
            f"| {name} | {statistics.median(top1):.1f}% ({min(top1):.1f} to {max(top1):.1f}) "
            f"| {min(epochs)} to {max(epochs)} |"
        )


def mobilette(*arguments: str) -> str:
    """Run the command line and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "mobilette", *arguments, "--json"], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    typer.run(main)

"""CIFAR-10 on a GPU: accuracy and seconds of several networks, within ten minutes.

    python bench/gpu_cifar.py ../shared/data/cifar10-jpeg.zip [--device cuda] [--json FILE]
    MOBILETTE_DATA=... python bench/gpu_cifar.py cifar10
    python bench/gpu_cifar.py ../shared/data/cifar10-jpeg.zip --device cpu --epochs 1 --images 500

(`bench/gpu_cifar.sh` finds Python and the images.) Every run is our command line in a process of
its own, its schedule fitted to the time in the table below: `seconds` counts from the first file
read to the last write, compilation and validation too; what the process needs before that, to
import libraries, is not in it. What no longer fits into `--within` is left out and said so. The
third line tries the whole way with little: use it where there is no GPU.

The plain recipe of 200 epochs to compare with, on the same images (SGD at 0.1, cosine, batches of
128, shifts and flips, no averaged weights), is a call of its own: it takes longer than ten minutes.

    bench/gpu_cifar.sh --only mobilenet_v2 --epochs 200 --within 10h --recipe quick --set lr=0.1
        --set batch_size=128 --set warmup=0 --set label_smoothing=0 --set ema_decay=0

Aims on the original images (H100): MobileNet V2 94.43% in 60 s, ResNet-18 95.47%, a network of
ResNet-18's class 94% in 10 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time as clock
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from mobilette.errors import InputError
from mobilette.training.recipe import parse_duration

if TYPE_CHECKING:
    from bench.images import unpack
else:
    from images import unpack

SOURCES = str(Path(__file__).resolve().parents[1] / "src")
START = 15.0  # seconds that a process may take beside its time


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network, the seconds it gets, and how often it is trained."""

    model: str
    seconds: int
    runs: int = 1


PLANS = (
    Plan(model="mobilenet_v2", seconds=60, runs=3),
    Plan(model="resnet18", seconds=60),
    Plan(model="resnet18", seconds=10),
    Plan(model="shufflenet_v2", seconds=45),
    Plan(model="mobilenet_v3_small", seconds=45),
    Plan(model="mobilenet_v3_large", seconds=45),
    Plan(model="squeezenet1_1_bn", seconds=45),
)


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What one run came to; ``process`` counts from its start to its end."""

    model: str
    given: str
    top1: float
    epochs: int
    seconds: float
    process: float
    images_per_second: float


def train(model: str, data: str, *, given: str, seed: int, options: list[str]) -> Reached:
    """Train one network with our command line."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--model={model}", "--resolution=32", f"--seed={seed}", given, "--from=scratch"]
        flags += [f"--out={folder}/run", "--json", *options]
        paths = os.pathsep.join([SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
        begun = clock.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mobilette", "train", data, *flags],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
    if done.returncode:
        raise InputError(f"{model} failed:\n{done.stderr[-3_000:]}")
    answer = json.loads(done.stdout)
    kept = ("top1", "epochs", "seconds", "images_per_second")
    return Reached(
        model=model,
        given=given.removeprefix("--"),
        process=clock.perf_counter() - begun,
        **{key: answer[key] for key in kept},
    )


def train_all(
    data: str, *, epochs: int | None, within: float, only: str, options: list[str]
) -> Iterator[Reached]:
    """Train what fits into ``within`` seconds, and say what does not."""
    begun = clock.perf_counter()
    for plan in PLANS:
        if only and plan.model not in only.split(","):
            continue
        given = f"--epochs={epochs}" if epochs else f"--time={plan.seconds}s"
        for seed in range(plan.runs):
            left = within - (clock.perf_counter() - begun)
            if left < (0 if epochs else plan.seconds + START):
                print(f"{plan.model}, seed {seed}: left out, {left:.0f} s are left", flush=True)
                continue
            reached = train(plan.model, data, given=given, seed=seed, options=options)
            line = f"{plan.model}, seed {seed}: {reached.top1:.2%} in {reached.seconds:.1f} s"
            print(f"{line} ({reached.process:.1f} s with its start)", file=sys.stderr, flush=True)
            yield reached


def show(found: list[Reached]) -> None:
    """Print a line for every network and time."""
    print("\n| network | given | top-1: median (range) | runs | epochs | seconds | images/s |")
    print("|---|---|---|---|---|---|---|")
    for model, given in dict.fromkeys((one.model, one.given) for one in found):
        mine = [one for one in found if (one.model, one.given) == (model, given)]
        top1 = [100 * one.top1 for one in mine]
        spread = f"{median(top1):.2f}% ({min(top1):.2f} to {max(top1):.2f})"
        seconds, rate = (
            median(values)
            for values in zip(*((one.seconds, one.images_per_second) for one in mine), strict=True)
        )
        epochs = median(one.epochs for one in mine)
        print(
            f"| {model} | {given} | {spread} | {len(mine)} | {epochs:g} | {seconds:.1f} "
            f"| {rate:,.0f} |"
        )


def describe(device: str) -> str:
    """Return the device and torch's version."""
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(f"--device {device}: torch {torch.__version__} finds no GPU")
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{device}, {os.cpu_count()} cores, torch {torch.__version__}"


def main(
    data: Annotated[str, typer.Argument(help="A zip or folder with train/ and val/, or cifar10.")],
    device: str = "cuda",
    recipe: str = "cifar",
    within: Annotated[str, typer.Option(help="All of it, unpacking included.")] = "570s",
    only: Annotated[str, typer.Option(help="Networks with commas between them.")] = "",
    epochs: Annotated[int | None, typer.Option(help="Instead of the times.")] = None,
    images: Annotated[int | None, typer.Option(help="To train on; all if not given.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Train the networks and print the table."""
    begun = clock.perf_counter()
    print(f"{describe(device)}; {Path(data).name}, recipe {recipe}", flush=True)
    options = [f"--device={device}", f"--recipe={recipe}"]
    options += [f"--set={setting}" for setting in settings or []]
    with tempfile.TemporaryDirectory() as folder:
        if data != "cifar10":
            val = None if images is None else 100
            data = str(unpack(Path(data).resolve(), Path(folder), train=images, val=val))
        unpacked = clock.perf_counter() - begun
        print(f"images ready after {unpacked:.1f} s", flush=True)
        left = parse_duration(within) - unpacked
        found = list(train_all(data, epochs=epochs, within=left, only=only, options=options))
    show(found)
    print(f"\nall in {clock.perf_counter() - begun:.0f} s")
    if json_file is not None:
        content = {"device": describe(device), "runs": [asdict(one) for one in found]}
        json_file.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(str(error))

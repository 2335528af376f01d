"""One training step of ours against the plain eager loop of the tutorials.

Same network (MobileNet V2; at 32x32 in its small form), same batch, same threads. The plain side
is fp32, NCHW, `torch.optim.Adam`, the default allocator, torch's own layers as torchvision's
networks use them (`nn.ReLU6(inplace=True)`), on a batch that is ready as floats. Our side is
`mobilette.training.step.Trainer.step` as `train` runs it: uint8 pixels in, augmentation,
normalisation, forward, backward, update and weight average included, in the precision that
`train` takes on this machine, with fused batch norms where there is a C++ compiler. Each side runs
in a process of its own; the processes take turns.

    python bench/train_step.py [--rounds 5] [--steps 8] [--model mobilenet_v2] [--width-mult 1.0]
        [--batch 128] [--resolution 32] [--recipe quick]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from mobilette import create_model
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.training.environment import can_fuse_norms, choose_precision
from mobilette.training.process import keep_freed_memory, set_threads
from mobilette.training.recipe import DEFAULT, load_recipe
from mobilette.training.step import Trainer

if TYPE_CHECKING:
    from bench.networks import build_network
else:
    from networks import build_network

CLASSES, WARM_UP = 10, 3


@dataclass(frozen=True, kw_only=True)
class Task:
    """The step that is timed, ``steps`` times after a warm-up; ``recipe`` is of our side."""

    model: str
    width_mult: float
    batch: int
    resolution: int
    recipe: str
    steps: int


def time_plain(task: Task) -> list[float]:
    """Return the seconds of each step of the plain eager loop."""
    network = build_network(
        task.model, width_mult=task.width_mult, resolution=task.resolution, classes=CLASSES
    ).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    images = torch.randn(task.batch, 3, task.resolution, task.resolution)
    labels = torch.randint(0, CLASSES, (task.batch,))
    seconds = []
    for _ in range(WARM_UP + task.steps):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


def time_ours(task: Task) -> list[float]:
    """Return the seconds of each of our steps."""
    keep_freed_memory()
    network = create_model(
        task.model, num_classes=CLASSES, width_mult=task.width_mult, resolution=task.resolution
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    recipe = load_recipe(task.recipe)
    precision = choose_precision("auto", torch.device("cpu"))
    trainer = Trainer(
        network,
        normalise=Normalise(preset("torch")),
        recipe=recipe,
        precision=precision,
        fused_norms=can_fuse_norms(torch.device("cpu")),
    )
    pixels = torch.randint(
        0, 256, (task.batch, 3, task.resolution, task.resolution), dtype=torch.uint8
    )
    labels = torch.randint(0, CLASSES, (task.batch,))
    seconds = []
    for index in range(WARM_UP + task.steps):
        begun = time.perf_counter()
        trainer.step(pixels, labels, index=index, place=(0, index), progress=0.5)
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


def main(
    rounds: int = 5,
    steps: int = 8,
    model: str = "mobilenet_v2",
    width_mult: float = 1.0,
    batch: int = 128,
    resolution: int = 32,
    recipe: str = DEFAULT,
    side: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure both sides in turns and print the ratio of their medians."""
    threads = set_threads(None)
    task = Task(
        model=model,
        width_mult=width_mult,
        batch=batch,
        resolution=resolution,
        recipe=recipe,
        steps=steps,
    )
    if side is not None:
        measure = {"plain": time_plain, "ours": time_ours}[side]
        print(json.dumps(measure(task)))
        return
    print(f"torch {torch.__version__}, {_cpu()}, {threads} threads")
    precision = choose_precision("auto", torch.device("cpu"))
    print(f"{model} x{width_mult:g}, batch {batch}, {resolution}x{resolution}, ours in {precision}")
    print(f"{WARM_UP} warm-up steps, then {steps} timed, {rounds} processes a side in turns")
    ratios = []
    for number in range(1, rounds + 1):
        medians = {}
        for name in ("plain", "ours"):
            options = {"side": name} | asdict(task)
            flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
            command = [sys.executable, __file__, *flags]
            seconds = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            medians[name] = median(seconds)
            spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
            print(f"round {number}  {name:<5}  median {medians[name]:.3f} s  ({spread})")
        ratios.append(medians["plain"] / medians["ours"])
    print(f"ratios {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"ratio: {median(ratios):.2f}")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU unknown"
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")


if __name__ == "__main__":
    typer.run(main)

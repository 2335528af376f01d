"""One training step of ours against the plain eager loop of the tutorials.

Same network (MobileNet V2, small form), batch 128, 32x32, same threads. The plain side is fp32,
NCHW, `torch.optim.Adam`, the default allocator, torch's own layers as torchvision's networks use
them (`nn.ReLU6(inplace=True)`), on a batch that is ready as floats. Our side is
`mobilette.training.step.Trainer.step` as `train` runs it: uint8 pixels in, augmentation,
normalisation, forward, backward, update and weight average included, in the precision that
`train` takes on this machine. Each side runs in a process
of its own; the processes take turns.

    python bench/train_step.py [--rounds 5] [--steps 8] [--model mobilenet_v2] [--width-mult 1.0]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import nn

from mobilette import create_model
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.nn.layers import GlobalAveragePool, ReLU6
from mobilette.training.ema import WeightAverage
from mobilette.training.environment import choose_precision
from mobilette.training.optimiser import build_optimizer
from mobilette.training.process import keep_freed_memory, set_threads
from mobilette.training.recipe import Recipe
from mobilette.training.step import Trainer

BATCH, RESOLUTION, CLASSES, WARM_UP = 128, 32, 10, 3


def with_torchs_layers(network: nn.Module) -> nn.Module:
    """Put torch's own layers in the place of ours, the same functions."""
    for name, module in list(network.named_modules()):
        if isinstance(module, ReLU6):
            network.set_submodule(name, nn.ReLU6(inplace=True))
        elif isinstance(module, GlobalAveragePool):
            network.set_submodule(name, nn.AdaptiveAvgPool2d(1))
    return network


def time_plain(model: str, width_mult: float, steps: int) -> list[float]:
    """Return the seconds of each step of the plain eager loop."""
    network = with_torchs_layers(
        create_model(model, num_classes=CLASSES, width_mult=width_mult, resolution=RESOLUTION)
    ).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    images = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION)
    labels = torch.randint(0, CLASSES, (BATCH,))
    seconds = []
    for _ in range(WARM_UP + steps):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


def time_ours(model: str, width_mult: float, steps: int) -> list[float]:
    """Return the seconds of each of our steps."""
    keep_freed_memory()
    network = create_model(
        model, num_classes=CLASSES, width_mult=width_mult, resolution=RESOLUTION
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    recipe = Recipe()
    precision = choose_precision("auto", torch.device("cpu"))
    trainer = Trainer(
        network=network,
        average=WeightAverage(network, decay=recipe.ema_decay),
        optimizer=build_optimizer(network, recipe),
        normalise=Normalise(preset("torch")),
        recipe=recipe,
        precision=precision,
        flip=True,
    )
    pixels = torch.randint(0, 256, (BATCH, 3, RESOLUTION, RESOLUTION), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH,))
    seconds = []
    for index in range(WARM_UP + steps):
        begun = time.perf_counter()
        trainer.step(pixels, labels, index=index, place=(0, index), progress=0.5)
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


def main(
    rounds: int = 5,
    steps: int = 8,
    model: str = "mobilenet_v2",
    width_mult: float = 1.0,
    side: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure both sides in turns and print the ratio of their medians."""
    threads = set_threads(None)
    if side is not None:
        measure = {"plain": time_plain, "ours": time_ours}[side]
        print(json.dumps(measure(model, width_mult, steps)))
        return
    print(f"torch {torch.__version__}, {_cpu()}, {threads} threads")
    precision = choose_precision("auto", torch.device("cpu"))
    print(f"{model} x{width_mult:g}, batch {BATCH}, {RESOLUTION}x{RESOLUTION}, ours in {precision}")
    print(f"{WARM_UP} warm-up steps, then {steps} timed, {rounds} processes a side in turns")
    ratios = []
    for number in range(1, rounds + 1):
        medians = {}
        for name in ("plain", "ours"):
            options = ["--steps", str(steps), "--model", model, "--width-mult", str(width_mult)]
            command = [sys.executable, __file__, "--side", name, *options]
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

"""The memory of a training step as counted, beside the peak of a real one.

    python bench/training_memory.py [--batch-size 64] [--resolution 96]

Each network and precision in a process of its own, which trains a step of two images, reads its
resident memory, trains two steps of the whole batch and reads the peak. Both figures are without
the weights, the momentum and the averages, which are there before the first reading. Linux only.
Last line: the ratios of counted and measured, least and most.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from mobilette import create_model
from mobilette.counting.training_memory import Precision, training_memory
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.training.environment import can_fuse_norms
from mobilette.training.process import keep_freed_memory, set_threads
from mobilette.training.recipe import load_recipe
from mobilette.training.step import Trainer

MODELS = (
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "squeezenet1_1", "shufflenet_v2"),
    *("resnet18", "mobilenet_v4_conv_small", "efficientnet_lite0", "ghostnet"),
)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def _resident(key: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(model: str, *, batch_size: int, resolution: int, precision: Precision) -> int:
    """Return the bytes that a step adds to the resident memory."""
    set_threads(None)
    keep_freed_memory()
    network = create_model(model, num_classes=10, resolution=resolution)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(
        network.train(),
        normalise=Normalise(preset("torch")),
        recipe=load_recipe("quick"),
        precision=precision,
        fused_norms=can_fuse_norms(torch.device("cpu")),
    )
    shape = (batch_size, 3, resolution, resolution)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, 10, (batch_size,))
    trainer.step(pixels[:2], labels[:2], index=0, place=(0, 0), progress=0.5)
    before = _resident("VmRSS")
    for index in (1, 2):
        trainer.step(pixels, labels, index=index, place=(0, index), progress=0.5)
    return _resident("VmHWM") - before


def main(
    batch_size: int = 64,
    resolution: int = 96,
    model: Annotated[str | None, typer.Option(hidden=True)] = None,
    precision: Annotated[str, typer.Option(hidden=True)] = "fp32",
) -> None:
    """Print a line per network and precision."""
    if model is not None:
        chosen: Precision = "bf16" if precision == "bf16" else "fp32"
        print(measure(model, batch_size=batch_size, resolution=resolution, precision=chosen))
        return
    print(f"torch {torch.__version__}, {batch_size} images of {resolution}x{resolution}")
    ratios = []
    options = [f"--batch-size={batch_size}", f"--resolution={resolution}"]
    for name in MODELS:
        arch = create_model(name, num_classes=10, resolution=resolution).arch
        for kind in PRECISIONS:
            command = [sys.executable, __file__, f"--model={name}", f"--precision={kind}", *options]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            counted = training_memory(arch, batch_size=batch_size, precision=kind)
            ours = counted.activations + counted.working + counted.gradients
            ratios.append(ours / int(done.stdout))
            print(
                f"{name:<24} {kind}  counted {ours / 1e6:6.0f} MB"
                f"  measured {int(done.stdout) / 1e6:6.0f} MB  {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"ratio: {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    typer.run(main)

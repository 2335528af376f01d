"""What a training step has to compute and to move, against what the machine can do.

    python bench/roofline.py [--model mobilenet_v2] [--batch 64] [--resolution 160]

Operations are those of convolutions and linear layers, forward once and backward twice. Bytes are
the activations that go through memory if every layer reads its input and writes its output, kept
results included: a convolution reads and writes one map forward, and reads two gradients' worth
twice backward; a batch norm reads its input twice forward and three maps backward; an activation
reads and writes one map each way. With our kernels (`mobilette.nn.fused_norm`, `depthwise`) an
activation after a norm moves none; a depthwise convolution reads and writes one map forward and
reads two and writes one backward; the norm before it reads one forward, and two and writes one
backward; the norm after it has its statistics. Peaks are measured here: the best of several large
matrix products, and the best of several copies of 256 MiB, read and written.

Prints the time that each would take alone, the step as it is (`bench/train_step.py`'s side of
ours, in both precisions, with PyTorch's layers and with our kernels in turns), and each kind of
layer's part of the bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Literal

import torch
import typer

from mobilette import cost, create_model
from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    ActivationLayer,
    AddLayer,
    AnyLayer,
    ConvLayer,
    NormLayer,
    is_depthwise,
)
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.training.process import keep_freed_memory, set_threads
from mobilette.training.recipe import Recipe
from mobilette.training.step import Trainer

if TYPE_CHECKING:
    from bench.contenders import machine
else:
    from contenders import machine

# How often a map of activations goes through memory, forward and backward together.
PASSES = {"convolution": 2 + 4, "batch norm": 3 + 5, "activation": 2 + 3, "add": 3 + 2}
KINDS = {
    ConvLayer: "convolution",
    NormLayer: "batch norm",
    ActivationLayer: "activation",
    AddLayer: "add",
}


def bytes_moved(arch: Arch, *, batch: int, width: int, kernels: bool = False) -> Counter[str]:
    """Return the bytes of one step by kind of layer; an element takes ``width`` bytes."""
    moved: Counter[str] = Counter()
    fewer = with_kernels(arch) if kernels else {}
    for layer in layers(arch):
        kind = KINDS.get(type(layer))
        if kind is not None:
            passes = fewer.get(layer.name, PASSES[kind])
            moved[kind] += passes * prod(layer.shape) * batch * width
    return moved


def with_kernels(arch: Arch) -> dict[str, int]:
    """Return the passes of the layers whose passes our kernels change, by name."""
    graph = {layer.name: layer for layer in layers(arch)}
    passes = {}
    for layer in graph.values():
        before = graph.get(layer.inputs[0])
        if isinstance(layer, ActivationLayer) and isinstance(before, NormLayer):
            passes[layer.name] = 0
        if isinstance(layer, NormLayer) and is_depthwise_layer(before):
            passes[layer.name] = 2 + 5
        if is_depthwise_layer(layer):
            passes[layer.name] = 2 + 3
            while isinstance(before, ActivationLayer):
                before = graph.get(before.inputs[0])
            if isinstance(before, NormLayer):
                passes[before.name] = 1 + 3
    return passes


def is_depthwise_layer(layer: AnyLayer | None) -> bool:
    """Whether it is a depthwise convolution."""
    return isinstance(layer, ConvLayer) and is_depthwise(
        layer.groups, layer.in_channels, layer.shape[0]
    )


def best(function: Callable[[], object], *, times: int) -> float:
    """Return the seconds of the fastest of so many calls, after one more."""
    function()
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def peak_operations(dtype: torch.dtype) -> float:
    """Return the operations a second of a matrix product (2 a multiply-accumulate)."""
    side = 2048
    left, right = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
    return 2 * side**3 / best(lambda: left @ right, times=8)


def peak_bytes() -> float:
    """Return the bytes a second of a copy, those read and those written."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source), times=10)


def step_seconds(
    model: str, *, batch: int, resolution: int, precision: Literal["fp32", "bf16"]
) -> list[float]:
    """Return the seconds of our training step without and with fused norms, the best of six."""
    trainers = []
    for fused_norms in (False, True):
        network = create_model(model, num_classes=10, resolution=resolution)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainer = Trainer(
            network,
            normalise=Normalise(preset("torch")),
            recipe=Recipe(),
            precision=precision,
            fused_norms=fused_norms,
        )
        trainer.begin_epoch(0)
        trainers.append(trainer)
    pixels = torch.randint(0, 256, (batch, 3, resolution, resolution), dtype=torch.uint8)
    labels = torch.randint(0, 10, (batch,))

    def step(trainer: Trainer) -> None:
        trainer.step(pixels, labels, index=0, place=(0, 0), progress=0.5)

    turns = [[best(partial(step, trainer), times=1) for trainer in trainers] for _ in range(6)]
    return [min(seconds) for seconds in zip(*turns, strict=True)]


def main(model: str = "mobilenet_v2", batch: int = 64, resolution: int = 160) -> None:
    """Print the roofline."""
    keep_freed_memory()
    threads = set_threads(None)
    arch = create_model(model, num_classes=10, resolution=resolution).arch
    operations = 2 * 3 * cost(arch).madds * batch
    bandwidth = peak_bytes()
    print(f"{machine()}, {threads} threads; {model}, batch {batch}, {resolution}x{resolution}")
    print(f"copies: {bandwidth / 1e9:.1f} GB/s; a step: {operations / 1e9:.1f} G operations\n")
    print(
        "| precision | peak, GFLOP/s | operations alone | GB moved | bytes alone | the step "
        "| kernels: GB moved | bytes alone | the step | step / limit |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for precision, dtype, width in (("fp32", torch.float32, 4), ("bf16", torch.bfloat16, 2)):
        peak = peak_operations(dtype)
        moved = bytes_moved(arch, batch=batch, width=width)
        fewer = bytes_moved(arch, batch=batch, width=width, kernels=True).total()
        plain, fused = step_seconds(
            model,
            batch=batch,
            resolution=resolution,
            precision="fp32" if precision == "fp32" else "bf16",
        )
        print(
            f"| {precision} | {peak / 1e9:.0f} | {operations / peak:.2f} s "
            f"| {moved.total() / 1e9:.1f} | {moved.total() / bandwidth:.2f} s | {plain:.2f} s "
            f"| {fewer / 1e9:.1f} | {fewer / bandwidth:.2f} s | {fused:.2f} s "
            f"| {fused / (operations / peak + fewer / bandwidth):.2f} |",
            flush=True,
        )
    shares = bytes_moved(arch, batch=batch, width=4)
    parts = ", ".join(f"{kind} {part / shares.total():.0%}" for kind, part in shares.most_common())
    print(f"\nof the bytes: {parts}")


if __name__ == "__main__":
    typer.run(main)

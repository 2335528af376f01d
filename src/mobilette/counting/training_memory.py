"""The memory of a training step, by counting."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Literal

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AddLayer,
    ConvLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
)
from mobilette.counting.cost import cost

Precision = Literal["fp32", "bf16"]
# Layers whose backward pass reads their input.
_READS_INPUT = (ConvLayer, LinearLayer, NormLayer, PoolLayer, ScaleLayer)


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes that a training step takes, without those of Python, PyTorch and the data.

    Attributes:
        weights: in fp32.
        gradients: in fp32.
        optimizer: momentum, and the averaged weights.
        activations: kept by the forward pass for the backward pass.
        working: for the largest activation, the gradients at its layer's output and input, and a
            copy in the layout of the kernel.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int

    @property
    def fixed(self) -> int:
        """What does not depend on the batch size."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The sum."""
        return self.fixed + self.activations + self.working


def training_memory(
    arch: Arch, *, batch_size: int, precision: Precision = "fp32"
) -> TrainingMemory:
    """Return the memory of a step of ``batch_size`` images with SGD, momentum and averaged weights.

    A convolution, a linear layer, a batch norm and a pool keep their input, a maximum pool also an
    int64 index per output; an activation keeps its output, which the next layer reads anyway.
    Activations are of ``precision``; weights are fp32, and bf16 needs a copy of them.
    """
    size = 4 if precision == "fp32" else 2
    graph = layers(arch)
    by_name = {layer.name: layer for layer in graph}
    kept = {name for layer in graph if isinstance(layer, _READS_INPUT) for name in layer.inputs}
    kept |= {layer.name for layer in graph if isinstance(layer, ActivationLayer)}
    readers = Counter(name for layer in graph for name in layer.inputs)
    kept -= {
        layer.inputs[0]  # which the activation overwrites
        for layer in graph
        if isinstance(layer, ActivationLayer)
        and readers[layer.inputs[0]] == 1
        and isinstance(by_name.get(layer.inputs[0]), NormLayer | AddLayer)
    }
    kept -= {INPUT}
    elements = [prod(by_name[name].shape) for name in kept] + [prod(arch.shape)]
    indices = sum(
        8 * prod(layer.shape)
        for layer in graph
        if isinstance(layer, PoolLayer) and layer.function == "max"
    )
    largest = max(prod(layer.shape) for layer in graph)
    weights = 4 * cost(arch).params
    copy = weights * size // 4 if precision == "bf16" else 0
    return TrainingMemory(
        weights=weights,
        gradients=weights + copy,
        optimizer=2 * weights,
        activations=batch_size * (size * sum(elements) + indices),
        working=3 * size * batch_size * largest,
    )

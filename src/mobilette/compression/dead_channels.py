"""Finds depthwise channels that are the same for every image."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ActivationLayer, AnyLayer, ConvLayer
from mobilette.arguments import checked
from mobilette.compression.folding import fold
from mobilette.model.model import Model

_STILL = 0.01  # of activations, whose deviation batch norms set to about 1
_USUAL = 6.0  # the largest activation, where nothing limits it
_RANGES = {"relu": (0.0, inf), "relu6": (0.0, 6.0), "sigmoid": (0.0, 1.0)}
_RANGES["hard_sigmoid"] = _RANGES["sigmoid"]


@dataclass(frozen=True, kw_only=True)
class DeadChannels:
    """The dead channels of a depthwise convolution.

    Attributes:
        layer: the convolution's name.
        channels: how many it has.
        dead: the numbers of those that are dead, ascending.
    """

    layer: str
    channels: int
    dead: tuple[int, ...]


@checked
def dead_depthwise(model: Model) -> tuple[DeadChannels, ...]:
    """Return the dead channels of each depthwise convolution, in order of execution.

    From the weights alone. A channel is dead if one of these holds:

    - its kernel, with the batch norm folded into it, changes the output by less than 0.01 for
      inputs of up to 6;
    - its activation cuts off every output there can be: ReLU all below 0, ReLU6 all below 0 or all
      above 6;
    - by its batch norm's statistics, the standard deviation of its output over the training images
      was below 0.01: scale * sqrt(v / (v + eps)) with the running variance v. This finds channels
      whose input is dead.
    """
    folded = fold(model)
    graph = layers(folded.arch)
    return tuple(
        DeadChannels(
            layer=layer.name,
            channels=layer.shape[0],
            dead=tuple(torch.nonzero(_dead(model, folded, graph, layer)).flatten().tolist()),
        )
        for layer in graph
        if isinstance(layer, ConvLayer) and layer.is_depthwise
    )


def _dead(model: Model, folded: Model, graph: tuple[AnyLayer, ...], conv: ConvLayer) -> Tensor:
    """Return which channels of ``conv`` are dead, bool (channels,)."""
    kernels = folded.weights[f"{conv.name}.weight"].double().flatten(1)
    bias = folded.weights.get(f"{conv.name}.bias", torch.zeros(len(kernels))).double()
    dead = kernels.abs().sum(1) * _USUAL < _STILL
    source = next((layer for layer in graph if layer.name == conv.inputs[0]), None)
    least, most = _range_of(source)  # zeros around the map are in the range
    ends = _products(kernels, least), _products(kernels, most)
    lowest, highest = bias + torch.minimum(*ends).sum(1), bias + torch.maximum(*ends).sum(1)
    behind = next((layer for layer in graph if conv.name in layer.inputs), None)
    low, high = _range_of(behind)
    if isinstance(behind, ActivationLayer) and behind.function in ("relu", "relu6"):
        dead |= (highest <= low) | (lowest >= high)
    return dead | _still(model, conv.name.removesuffix("conv") + "norm", model.arch)


def _range_of(layer: AnyLayer | None) -> tuple[float, float]:
    function = layer.function if isinstance(layer, ActivationLayer) else "none"
    return _RANGES.get(function, (-inf, inf))


def _products(kernels: Tensor, value: float) -> Tensor:
    """Return ``kernels`` times ``value``, where zero times infinity is zero."""
    return torch.where(kernels == 0, 0.0, kernels * value)


def _still(model: Model, norm: str, arch: Arch) -> Tensor:
    if f"{norm}.running_var" not in model.weights:
        return torch.tensor(False)
    variance = model.weights[f"{norm}.running_var"].double()
    scale = model.weights[f"{norm}.weight"].double().abs()
    return scale * torch.sqrt(variance / (variance + arch.norm_epsilon)) < _STILL

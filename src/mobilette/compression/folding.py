"""Batch norm folding, and branches merged into one convolution."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from mobilette.arch.editing import change_convs, merged, merged_row
from mobilette.arch.layers import layers
from mobilette.arch.primitives import NormLayer
from mobilette.arch.rows import Block, Conv
from mobilette.arguments import checked
from mobilette.model.model import Model


@checked
def fold(model: Model) -> Model:
    """Return ``model`` with every batch norm folded into the convolution before it.

    Parallel branches are merged first (`merge_branches`). The result computes the same as ``model``
    in evaluation mode. With scale g, shift b, running mean m and variance v (Ioffe and Szegedy
    2015, arXiv 1502.03167, algorithm 2), in float64: weight' = weight * g / sqrt(v + eps), bias' =
    (bias - m) * g / sqrt(v + eps) + b.
    """
    model = merge_branches(model)
    arch, folded = model.arch, dict(model.weights)
    for layer in layers(arch):
        if not isinstance(layer, NormLayer):
            continue
        conv = layer.inputs[0]
        weight, bias = _folded_norm(
            folded,
            layer.name,
            folded[f"{conv}.weight"].double(),
            folded.get(f"{conv}.bias"),
            epsilon=arch.norm_epsilon,
        )
        folded[f"{conv}.weight"], folded[f"{conv}.bias"] = weight.float(), bias.float()
    return replace(model, arch=change_convs(arch, _without_norm), weights=folded)


def _folded_norm(
    weights: dict[str, Tensor], norm: str, weight: Tensor, bias: Tensor | None, *, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Remove the batch norm ``norm`` from ``weights``; return the convolution with it, float64.

    Args:
        weights: tensors by name.
        norm: the layer's name.
        weight: of the convolution before it (out, in / groups, k, k), float64.
        bias: of that convolution (out,), if it has one.
        epsilon: of the batch norm.
    """
    scale, shift, mean, variance = (
        weights.pop(f"{norm}.{tensor}").double()
        for tensor in ("weight", "bias", "running_mean", "running_var")
    )
    weights.pop(f"{norm}.num_batches_tracked", None)
    factor = scale / torch.sqrt(variance + epsilon)
    before = torch.zeros_like(mean) if bias is None else bias.double()
    return weight * factor[:, None, None, None], (before - mean) * factor + shift


def _without_norm(name: str, conv: Conv) -> Conv:
    return replace(conv, norm="none", bias=True) if conv.norm == "batch" else conv


@checked
def merge_branches(model: Model) -> Model:
    """Return ``model`` with the branches of each block merged into one convolution with bias.

    This applies to blocks of convolutions and batch norms that are added before the activation
    (RepVGG, MobileOne). With their batch norms folded, the kernels and biases add up; a smaller
    kernel is padded with zeros, and a batch norm alone is a convolution with the identity (Ding et
    al. 2021, arXiv 2101.03697, Section 3.3). The result computes the same as ``model`` in
    evaluation mode, up to rounding. Other blocks stay.
    """
    arch, weights = model.arch, dict(model.weights)
    for number, row in enumerate((arch.stem, *arch.rows)):
        name = f"rows.{number - 1}" if number else "stem"
        if isinstance(row, Block) and (conv := merged_row(row)) is not None:
            _merge(name, row, conv, weights, arch.norm_epsilon)
    return replace(model, arch=merged(arch), weights=weights)


def _merge(name: str, row: Block, conv: Conv, weights: dict[str, Tensor], epsilon: float) -> None:
    """Replace the tensors of ``row`` in ``weights`` by those of ``conv``."""
    kernel, bias = torch.zeros(()), torch.zeros(())
    for step in row.steps():
        branch = f"{name}.{step.name}"
        if isinstance(step.operation, Conv):
            weight = weights.pop(f"{branch}.conv.weight").double()
            own = weights.pop(f"{branch}.conv.bias", None)
        else:
            weight, own = _identity(conv), None
        weight, added = _folded_norm(weights, f"{branch}.norm", weight, own, epsilon=epsilon)
        kernel = kernel + functional.pad(weight, [(conv.kernel - weight.shape[-1]) // 2] * 4)
        bias = bias + added
    weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"] = kernel.float(), bias.float()


def _identity(conv: Conv) -> Tensor:
    """Return the 1x1 kernel, float64, that gives each channel as it is."""
    inputs = conv.channels // conv.groups
    kernel = torch.zeros(conv.channels, inputs, 1, 1, dtype=torch.float64)
    channels = torch.arange(conv.channels)
    kernel[channels, channels % inputs] = 1.0
    return kernel

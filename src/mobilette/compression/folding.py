"""Batch norm folding."""

from __future__ import annotations

from dataclasses import replace

import torch

from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import NormLayer
from mobilette.arch.rows import Conv
from mobilette.arguments import checked
from mobilette.model.model import Model


@checked
def fold(model: Model) -> Model:
    """Return ``model`` with every batch norm folded into the convolution before it.

    The result computes the same as ``model`` in evaluation mode. With scale g, shift b, running
    mean m and variance v (Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 2), in float64:
    weight' = weight * g / sqrt(v + eps), bias' = (bias - m) * g / sqrt(v + eps) + b.
    """
    arch, folded = model.arch, dict(model.weights)
    for layer in layers(arch):
        if not isinstance(layer, NormLayer):
            continue
        norm, conv = layer.name, layer.inputs[0]
        scale, shift, mean, variance = (
            folded.pop(f"{norm}.{tensor}").double()
            for tensor in ("weight", "bias", "running_mean", "running_var")
        )
        folded.pop(f"{norm}.num_batches_tracked", None)
        factor = scale / torch.sqrt(variance + arch.norm_epsilon)
        weight = folded[f"{conv}.weight"].double() * factor[:, None, None, None]
        bias = folded.get(f"{conv}.bias", torch.zeros_like(mean)).double()
        folded[f"{conv}.weight"] = weight.float()
        folded[f"{conv}.bias"] = ((bias - mean) * factor + shift).float()
    return replace(model, arch=change_convs(arch, _without_norm), weights=folded)


def _without_norm(name: str, conv: Conv) -> Conv:
    return replace(conv, norm="none", bias=True) if conv.norm == "batch" else conv

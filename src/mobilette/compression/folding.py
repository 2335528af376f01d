"""Batch norm folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import NormLayer
from mobilette.arch.rows import Conv


def fold_batch_norm(arch: Arch, weights: Mapping[str, Tensor]) -> tuple[Arch, dict[str, Tensor]]:
    """Return the network without batch norms that answers as ``arch`` does in inference.

    With scale g, shift b, running mean m and variance v (Ioffe and Szegedy 2015, algorithm 2):
    weight' = weight * g / sqrt(v + eps), bias' = (bias - m) * g / sqrt(v + eps) + b, computed in
    float64.
    """
    folded = dict(weights)
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
    return change_convs(arch, _folded), folded


def _folded(name: str, conv: Conv) -> Conv:
    return replace(conv, norm="none", bias=True) if conv.norm == "batch" else conv

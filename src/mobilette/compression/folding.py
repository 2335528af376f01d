"""Batch norm folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import NormLayer
from mobilette.arch.rows import Conv, ConvPool


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
    folded_arch: Arch = _without_norm(arch)
    return folded_arch, folded


def _without_norm(value: Any) -> Any:
    """Return a copy of a part of an `Arch` in which no convolution has a batch norm."""
    if isinstance(value, Conv) and value.norm == "batch":
        return replace(value, norm="none", bias=True)
    if isinstance(value, ConvPool):  # its convolution is made from its own fields
        return replace(value, norm="none")
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _without_norm(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **parts)
    if isinstance(value, tuple):
        return tuple(_without_norm(item) for item in value)
    return value

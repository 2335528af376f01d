"""Tensors of our state dict: made of the weights of nodes, and checked."""

from __future__ import annotations

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.primitives import ConvLayer, LinearLayer, Shape
from mobilette.errors import InputError
from mobilette.formats.graph import ConvNode, NormNode


def conv_tensors(
    layer: ConvLayer | LinearLayer, conv: ConvNode, *, flattened: Shape
) -> dict[str, Tensor]:
    """Return ``weight`` and ``bias`` of ``layer`` by name.

    Args:
        layer: ours.
        conv: the file's; a linear layer's inputs are in the order (height, width, channels).
        flattened: shape of what a linear layer reads, before it was flattened.
    """
    weight = torch.tensor(conv.weight)
    bias = None if conv.bias is None else torch.tensor(conv.bias)
    if isinstance(layer, LinearLayer):
        if len(flattened) == 3:
            channels, height, width = flattened
            weight = weight.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        weight = weight.reshape(len(weight), -1).contiguous()
        bias = torch.zeros(len(weight)) if bias is None else bias
    tensors = {f"{layer.name}.weight": weight}
    return tensors if bias is None else tensors | {f"{layer.name}.bias": bias}


def norm_tensors(conv: str, norm: NormNode, arch: Arch) -> dict[str, Tensor]:
    """Return the tensors of the batch norm behind the convolution called ``conv``."""
    # A layer with another epsilon than the rest: the difference goes into its variance.
    variance = norm.variance + norm.variance.dtype.type(norm.epsilon - arch.norm_epsilon)
    tensors = {
        "weight": torch.tensor(norm.scale),
        "bias": torch.tensor(norm.shift),
        "running_mean": torch.tensor(norm.mean),
        "running_var": torch.tensor(variance),
        "num_batches_tracked": torch.tensor(0),
    }
    name = conv.removesuffix("conv") + "norm"
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def check_finite(name: str, tensor: Tensor, *, where: str) -> None:
    """Raise `InputError` if a value of ``tensor`` is NaN or infinite; ``where`` is its file.

    Or if it is a variance below zero, whose root would be NaN.
    """
    if not tensor.isfinite().all():
        raise InputError(
            f"{where}: tensor {name!r:.80} has values that are not finite (NaN or inf)"
        )
    if name.endswith("running_var") and (tensor < 0).any():
        raise InputError(f"{where}: tensor {name!r:.80} has variances below zero")

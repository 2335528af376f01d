"""The first convolution for images of other channels than it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.errors import InputError

FIRST = "stem.conv.weight"


def adapt_input(
    arch: Arch, weights: Mapping[str, Tensor], in_channels: int
) -> tuple[Arch, dict[str, Tensor]]:
    """Return the network for images of ``in_channels`` channels, and its weights.

    To one channel the first convolution's weights are summed: a grey image gets the logits that
    it had when its channel was repeated. To several they are repeated in turn (red, green, blue,
    red, ...) and multiplied by old / new channels, so that the sums stay of a size, as timm's
    ``adapt_input_conv`` does. Both hold for normalised values: the image's channels must be
    normalised alike.

    Args:
        arch: the network that ``weights`` are of.
        weights: its state dict; it is left alone, and its tensors are used again.
        in_channels: of the new network.

    Raises:
        InputError: ``in_channels`` is not a number that a network can have, or the first
            convolution is one in groups.
    """
    adapted = replace(arch, in_channels=in_channels)
    if in_channels == arch.in_channels:
        return arch, dict(weights)
    if arch.stem.groups > 1:
        raise InputError(
            f"{arch.name}: its first convolution has {arch.stem.groups} groups, so that it can be "
            f"read with {arch.in_channels} channels only, not {in_channels}"
        )
    weight = weights[FIRST]
    if in_channels == 1:
        first = weight.sum(dim=1, keepdim=True)
    else:
        repeated = torch.arange(in_channels) % arch.in_channels
        first = weight[:, repeated] * (arch.in_channels / in_channels)
    return adapted, {**weights, FIRST: first}

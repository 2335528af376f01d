"""Weights for a narrower network, taken from those of a wider one of the same structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, NormLayer
from mobilette.formats.channel_choice import Sources, choose_channels
from mobilette.formats.importance import contributions
from mobilette.formats.same_structure import check_same_structure, check_weights


@torch.no_grad()
def slice_weights(source: Arch, weights: Mapping[str, Tensor], target: Arch) -> dict[str, Tensor]:
    """Return weights for ``target`` that are the most important part of those of ``source``.

    Of every group of tied channels (`mobilette.arch.channels`) those stay that contribute most to
    the layers that read them (`mobilette.formats.importance`), in their order. What a layer loses
    of its input shifts the statistics of the batch norm behind it: measure them anew
    (`mobilette.formats.batch_norm.measure_batch_norm`) before the network is used.

    A place in the target whose own group has no channel left in the source (odd widths of
    ShuffleNet; a width at which a shortcut appears because two numbers of channels became equal)
    takes another channel of the same layer; layers that never read that one read it with weights
    that were another channel's.

    Args:
        source: the network that ``weights`` are of.
        weights: the state dict of that network; it is left alone.
        target: as wide or narrower at every layer; strides, resolution and padding may differ.

    Returns:
        The state dict of ``target``: copies, in the dtypes of ``weights``.

    Raises:
        InputError: ``target`` is wider somewhere, has another structure, other classes or other
            input channels, or ``weights`` are not those of ``source``.
    """
    check_same_structure(source, target)
    check_weights(source, weights)
    return take_weights(
        weights, target, choose_channels(source, target, contributions(source, weights))
    )


@torch.no_grad()
def take_weights(weights: Mapping[str, Tensor], target: Arch, chosen: Sources) -> dict[str, Tensor]:
    """Return weights for ``target``, a narrower network, taken from the ``chosen`` positions.

    Args:
        weights: the state dict of a network of the same structure; it is left alone.
        target: the narrower network.
        chosen: where its weights are taken from; positions that are not named stay.

    Returns:
        The state dict of ``target``: copies, in the dtypes of ``weights``.
    """
    narrow = {}
    for layer in layers(target):
        if not isinstance(layer, ConvLayer | LinearLayer | NormLayer):
            continue
        outputs = _positions(layer.name, "output", layer.shape[0], chosen)
        for name in _tensors(layer.name, weights):
            tensor = weights[name]
            if tensor.dim() == 0:  # the counter of a batch norm
                narrow[name] = tensor.clone()
            elif tensor.dim() == 1 or (isinstance(layer, ConvLayer) and layer.is_depthwise):
                narrow[name] = tensor[outputs]
            elif not isinstance(layer, NormLayer):
                narrow[name] = _weight(layer, tensor[outputs], chosen)
    return narrow


def _tensors(layer: str, weights: Mapping[str, Tensor]) -> list[str]:
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [name for tensor in tensors if (name := f"{layer}.{tensor}") in weights]


def _weight(layer: ConvLayer | LinearLayer, rows: Tensor, chosen: Sources) -> Tensor:
    """Return the columns of the source's ``rows`` (out, in / groups, ...) that are chosen."""
    groups = layer.groups if isinstance(layer, ConvLayer) else 1
    width = layer.in_channels if isinstance(layer, ConvLayer) else layer.in_features
    # Positions count over all groups, columns within one.
    columns = _positions(layer.name, "input", width, chosen).reshape(groups, -1) % rows.shape[1]
    return torch.cat([part[:, c] for part, c in zip(rows.chunk(groups), columns, strict=True)])


def _positions(layer: str, side: Literal["output", "input"], width: int, chosen: Sources) -> Tensor:
    """Return the position in the source of each of the layer's outputs or inputs."""
    sources = chosen.get((layer, side), {})
    return torch.tensor([sources.get(position, position) for position in range(width)])

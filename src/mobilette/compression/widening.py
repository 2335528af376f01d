"""Wider networks that compute the same as narrower ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import Side, channel_groups
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, NormLayer
from mobilette.errors import InputError
from mobilette.nn.network import Network

# For each layer and side of the wider network: its positions to those of the narrower one; -1 where
# the channel is new.
Positions = Mapping[tuple[str, Side], Tensor]


def fresh_weights(arch: Arch, *, seed: int) -> dict[str, Tensor]:
    """Return the state dict of ``arch``, initialised as for training from scratch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(arch).state_dict()


@torch.no_grad()
def widen_weights(
    source: Arch, weights: Mapping[str, Tensor], target: Arch, *, seed: int
) -> dict[str, Tensor]:
    """Return weights for the wider ``target`` that give the answers of ``weights``.

    New channels are computed by random weights and read with weights of zero, so that they matter
    only once training has changed those (as in Net2WiderNet, Chen et al. 2016, arXiv 1511.05641,
    the function stays; there channels are copied). Old channels keep their order.

    Args:
        source: the network of ``weights``.
        weights: its state dict; not changed.
        target: the same network, nowhere narrower.
        seed: of the random weights.

    Raises:
        InputError: channels are tied otherwise in ``target``, as in a wider ShuffleNet.
    """
    positions = _positions(source, target)
    wide = fresh_weights(target, seed=seed)
    for layer in layers(target):
        if not isinstance(layer, ConvLayer | LinearLayer | NormLayer):
            continue
        outputs = positions[layer.name, "output"]
        old = outputs >= 0
        for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            name = f"{layer.name}.{tensor}"
            if name not in wide:
                continue
            theirs = weights[name]
            depthwise = isinstance(layer, ConvLayer) and layer.is_depthwise
            if theirs.dim() == 0:
                wide[name] = theirs.clone()
            elif theirs.dim() == 1 or depthwise:
                wide[name][old] = theirs[outputs[old]]
            else:
                assert not isinstance(layer, NormLayer)
                inputs = positions[layer.name, "input"]
                _take(layer, wide[name], theirs, outputs, inputs)
    return wide


def _take(
    layer: ConvLayer | LinearLayer, mine: Tensor, theirs: Tensor, outputs: Tensor, inputs: Tensor
) -> None:
    """Write the weights of old outputs into ``mine``: zero for new inputs."""
    groups = layer.groups if isinstance(layer, ConvLayer) else 1
    columns = inputs.reshape(groups, -1)
    for group, rows in enumerate(torch.arange(len(outputs)).chunk(groups)):
        old = rows[outputs[rows] >= 0]
        known = columns[group] >= 0
        part = torch.zeros_like(mine[old])
        # Positions count over all groups, columns within one.
        taken = columns[group][known] % theirs.shape[1]
        part[:, known] = theirs[outputs[old]][:, taken]
        mine[old] = part


def _positions(source: Arch, target: Arch) -> Positions:
    alike = {frozenset(group.places): group for group in channel_groups(source)}
    found: defaultdict[tuple[str, Side], dict[int, int]] = defaultdict(dict)
    for group in channel_groups(target):
        theirs = alike.get(frozenset(group.places))
        for place in group.places:
            known = found[place.layer, place.side]
            for channel in range(group.size):
                mine = group.positions(place, channel)
                if theirs is None:
                    raise InputError(
                        f"{target.name} cannot be widened: channels of {place.layer} are tied "
                        "otherwise in the wider network"
                    )
                old = channel < theirs.size
                taken = theirs.positions(place, channel) if old else (-1,) * len(mine)
                known.update(zip(mine, taken, strict=True))
    widths: dict[tuple[str, Side], int] = {}
    for layer in layers(target):
        widths[layer.name, "output"] = layer.shape[0]
        if isinstance(layer, ConvLayer | LinearLayer):
            wide = layer.in_channels if isinstance(layer, ConvLayer) else layer.in_features
            widths[layer.name, "input"] = wide
    # The image's channels and the logits are in no group and stay.
    return {
        side: torch.tensor([found[side].get(position, position) for position in range(width)])
        for side, width in widths.items()
    }

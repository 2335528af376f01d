"""Slices a wider network's weights to a narrower network of the same structure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, Place, Side, channel_groups
from mobilette.arch.layers import layers
from mobilette.arch.primitives import AnyLayer, ConvLayer, LinearLayer, NormLayer
from mobilette.arch.rows import PoolLinear
from mobilette.errors import InputError, nearest
from mobilette.formats.importance import contributions


@torch.no_grad()
def slice_weights(source: Arch, weights: Mapping[str, Tensor], target: Arch) -> dict[str, Tensor]:
    """Return the most important part of the weights of ``source`` as weights for ``target``.

    Of each group of tied channels (`mobilette.arch.channels`), those that contribute most to the
    layers that read them (`mobilette.formats.importance`) are kept, in order. Removed inputs shift
    the statistics of the next batch norm: re-measure them before using the network
    (`mobilette.formats.fitting.measure_batch_norm`).

    A group of the target may have no channel left in the source's group (odd widths of ShuffleNet;
    a width at which a shortcut appears because two channel counts became equal). It then takes
    another channel of the same layer; layers that never read that channel read it with another
    channel's weights.

    Args:
        source: the network of ``weights``.
        weights: its state dict; not changed.
        target: no wider at any layer; strides, resolution and padding may differ.

    Returns:
        The state dict of ``target``: copies, in the dtypes of ``weights``.

    Raises:
        InputError: ``target`` is wider somewhere or has another structure, classes or input
            channels.
    """
    check_same_structure(source, target)
    return take_weights(
        weights, target, choose_channels(source, target, contributions(source, weights))
    )


@torch.no_grad()
def take_weights(weights: Mapping[str, Tensor], target: Arch, chosen: Sources) -> dict[str, Tensor]:
    """Return weights for the narrower network ``target``, taken from the ``chosen`` positions.

    ``weights`` are a state dict of the same structure and are not changed; positions missing from
    ``chosen`` stay. Returns copies, in the dtypes of ``weights``.
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
    """Return the chosen columns of the source's ``rows`` (out, in / groups, ...)."""
    groups = layer.groups if isinstance(layer, ConvLayer) else 1
    width = layer.in_channels if isinstance(layer, ConvLayer) else layer.in_features
    # Positions count over all groups, columns within one.
    columns = _positions(layer.name, "input", width, chosen).reshape(groups, -1) % rows.shape[1]
    return torch.cat([part[:, c] for part, c in zip(rows.chunk(groups), columns, strict=True)])


def _positions(layer: str, side: Literal["output", "input"], width: int, chosen: Sources) -> Tensor:
    """Return the source position of each of the layer's outputs or inputs."""
    sources = chosen.get((layer, side), {})
    return torch.tensor([sources.get(position, position) for position in range(width)])


# For each layer and side of the target: target position to source position.
Sources = Mapping[tuple[str, Side], Mapping[int, int]]


class _Channel(NamedTuple):
    """A channel of the source, by group and number within it."""

    group: int
    number: int


def choose_channels(source: Arch, target: Arch, contributions: Mapping[str, Tensor]) -> Sources:
    """Return the source positions whose weights the positions of ``target`` take.

    A target group is filled from the source's group at the same places with its most important
    channels, in order. A channel's importance is the sum over its places of ``contributions`` (one
    number per input, for each layer that reads channels). What remains is filled with free channels
    of the same layer that are computed at most of the same places and matter most there; places
    they lack are filled likewise with others. No source position is used twice.

    The networks have the same structure and ``target`` is nowhere wider. The image's channels and
    the logits stay and are not returned.
    """
    choice = _Choice(source, {layer: shares.tolist() for layer, shares in contributions.items()})
    remaining = [(group, choice.fill_alike(group)) for group in channel_groups(target)]
    for group, slots in remaining:
        weighted = tuple(place for place in group.places if place.side != "through")
        choice.fill_rest(group, slots, weighted)
    return choice.sources


class _Choice:
    """The positions filled so far, and the places where each source channel is taken."""

    def __init__(self, source: Arch, contributions: Mapping[str, list[float]]) -> None:
        self.groups = channel_groups(source)
        self.contributions = contributions
        self.sources: defaultdict[tuple[str, Side], dict[int, int]] = defaultdict(dict)
        self.taken: defaultdict[_Channel, set[Place]] = defaultdict(set)
        self.alike = {frozenset(g.places): number for number, g in enumerate(self.groups)}
        self.groups_at: defaultdict[Place, list[int]] = defaultdict(list)
        for number, group in enumerate(self.groups):
            for place in group.places:
                self.groups_at[place].append(number)

    def fill_alike(self, group: ChannelGroup) -> range:
        """Fill ``group`` from the group at the same places; return the channels left to fill."""
        number = self.alike.get(frozenset(group.places))
        if number is None:
            return range(group.size)
        places = tuple(group.places)
        channels = self._channels(number)
        best = self._best(channels, places, group.size)
        for slot, channel in enumerate(best):
            self._take(group, slot, channel, places)
        return range(len(best), group.size)

    def fill_rest(
        self, group: ChannelGroup, slots: Sequence[int], places: tuple[Place, ...]
    ) -> None:
        """Fill the channels ``slots`` of ``group`` at ``places`` with free channels."""
        if not places or not slots:
            return
        first = places[0]
        free = [
            channel
            for number in self.groups_at[first]
            for channel in self._channels(number)
            if first not in self.taken[channel]
        ]
        remaining: defaultdict[tuple[Place, ...], list[int]] = defaultdict(list)
        for slot, channel in zip(slots, self._best(free, places, len(slots)), strict=True):
            shared = self._shared(channel, places)
            self._take(group, slot, channel, shared)
            remaining[tuple(place for place in places if place not in shared)].append(slot)
        for left, slots_left in remaining.items():
            self.fill_rest(group, slots_left, left)

    def _channels(self, group: int) -> list[_Channel]:
        return [_Channel(group, number) for number in range(self.groups[group].size)]

    def _best(
        self, channels: list[_Channel], places: tuple[Place, ...], count: int
    ) -> list[_Channel]:
        """Return the ``count`` best channels for ``places``, in order."""

        def rank(channel: _Channel) -> tuple[int, float]:
            shared = self._shared(channel, places)
            outputs = sum(place.side == "output" for place in shared)
            return outputs, self._importance(channel, shared)

        return sorted(sorted(channels, key=rank, reverse=True)[:count])

    def _shared(self, channel: _Channel, places: tuple[Place, ...]) -> tuple[Place, ...]:
        mine, taken = self.groups[channel.group].places, self.taken[channel]
        return tuple(place for place in places if place in mine and place not in taken)

    def _importance(self, channel: _Channel, places: tuple[Place, ...]) -> float:
        group = self.groups[channel.group]
        return sum(
            self.contributions[place.layer][position]
            for place in places
            if place.side == "input"
            for position in group.positions(place, channel.number)
        )

    def _take(
        self, group: ChannelGroup, slot: int, channel: _Channel, places: tuple[Place, ...]
    ) -> None:
        self.taken[channel].update(places)
        theirs = self.groups[channel.group]
        for place in places:
            to, taken_from = group.positions(place, slot), theirs.positions(place, channel.number)
            self.sources[place.layer, place.side].update(zip(to, taken_from, strict=True))


def check_same_structure(source: Arch, target: Arch) -> None:
    """Raise `InputError` unless weights of ``source`` can be sliced to ``target``.

    Strides, resolution, padding and activations may differ; weights do not depend on them.
    """
    names = f"{target.name} cannot take weights of {source.name}"
    if source.in_channels != target.in_channels:
        raise InputError(
            f"{names}: {target.in_channels} input channels, the weights have {source.in_channels}"
        )
    if source.num_classes != target.num_classes:
        raise InputError(
            f"{names}: {target.num_classes} classes, the weights have {source.num_classes}"
        )
    if len(source.rows) != len(target.rows):
        raise InputError(
            f"{names}: {len(target.rows)} rows, the weights have {len(source.rows)} (the small "
            "form of some networks leaves rows out: give both the same form)"
        )
    mine, theirs = _with_weights(source), _with_weights(target)
    for name in [*theirs, *mine]:
        if name not in mine:
            raise InputError(f"{names}: the weights have no layer {name}{nearest(name, mine)}")
        if name not in theirs:
            raise InputError(f"{names}: it has no layer {name}{nearest(name, theirs)}")
        wanted, given = _kind(theirs[name]), _kind(mine[name])
        if wanted != given:
            raise InputError(f"{names}: {name} is {wanted}, in the weights {given}")
    if _pool(source) != _pool(target):
        raise InputError(
            f"{names}: its head reads {_pool(target)}x{_pool(target)} pixels, in the weights "
            f"{_pool(source)}x{_pool(source)}"
        )
    for name, layer in theirs.items():
        if layer.shape[0] > mine[name].shape[0]:
            raise InputError(
                f"{names}: {name} has {layer.shape[0]} channels, the weights have "
                f"{mine[name].shape[0]}: a network can be cut to a smaller width, not a larger one"
            )


def _with_weights(arch: Arch) -> dict[str, AnyLayer]:
    return {
        layer.name: layer
        for layer in layers(arch)
        if isinstance(layer, ConvLayer | LinearLayer | NormLayer)
    }


def _kind(layer: AnyLayer) -> str:
    """Describe a layer apart from its width."""
    if isinstance(layer, LinearLayer):
        return "a linear layer"
    if not isinstance(layer, ConvLayer):
        return "a batch norm"
    size = f"{layer.kernel}x{layer.kernel}"
    bias = " with bias" if layer.bias else ""
    if layer.is_depthwise:
        return f"a depthwise {size} convolution{bias}"
    groups = f" in {layer.groups} groups" if layer.groups > 1 else ""
    return f"a {size} convolution{groups}{bias}"


def _pool(arch: Arch) -> int:
    return arch.head.pool if isinstance(arch.head, PoolLinear) else 1

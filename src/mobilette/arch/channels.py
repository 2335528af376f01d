"""Which channels of a network must be cut together, and which are interchangeable.

A channel begins at the layer with weights that computes it and continues through batch norms,
activations, depthwise convolutions, pools, additions (which tie it to another), concatenations,
shuffles and splits, up to the layers that read it. Cutting it means cutting it at all these places.

Example: two channels in, a residual block, two classes::

    stem       Conv(channels=8) rows.0     Block(paths=((expand 24, depthwise 24, project 8), ()),
    join="add") head       PoolLinear(classes=2)

has two groups. The addition ties the 8 channels of the stem to those of ``rows.0.project``::

    outputs  stem.conv, stem.norm, rows.0.project.conv, rows.0.project.norm: positions 0 to 7 inputs
    rows.0.expand.conv, head.classifier: positions 0 to 7

and the 24 channels of ``expand`` are also those of the depthwise convolution::

    outputs  rows.0.expand.conv, .norm, rows.0.depthwise.conv, .norm: positions 0 to 23 inputs
    rows.0.project.conv: positions 0 to 23

The image's channels and the logits are in no group: they are never cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, NamedTuple, assert_never

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
)

Side = Literal["output", "input", "through"]


class Place(NamedTuple):
    """A place where channels occur.

    Attributes:
        layer: the layer's name.
        side: ``output`` or ``input`` of a layer's weights; ``through`` for a layer without weights
            whose channels must be cut on both sides alike.
        part: the group of a grouped convolution or a shuffle, else 0; zeros of a `SubsampleLayer`
            before the old channels are part 0, those after them part 1.
    """

    layer: str
    side: Side
    part: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelGroup:
    """Channels that occur at the same places, so that any of them may be cut.

    How many may be cut is another matter: the parts of a layer keep equal channel counts.

    Attributes:
        size: the number of channels.
        places: the positions that the channels occupy at each place, channel after channel. A
            channel has one position at most places, but one per pixel before a linear layer that
            reads a map of several pixels, so that ``len(positions)`` is a multiple of ``size``. A
            depthwise convolution and a batch norm have outputs only.
    """

    size: int
    places: Mapping[Place, tuple[int, ...]]

    def positions(self, place: Place, channel: int) -> tuple[int, ...]:
        """Return the positions of the group's ``channel``-th channel at ``place``."""
        positions = self.places[place]
        each = len(positions) // self.size
        return positions[channel * each : (channel + 1) * each]

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Output positions by name of the layer with weights."""
        return self._by_layer("output")

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Input positions by name of the layer with weights."""
        return self._by_layer("input")

    def _by_layer(self, side: Side) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for place, positions in self.places.items():
            if place.side == side:
                found[place.layer] = found.get(place.layer, ()) + positions
        return found


@lru_cache(maxsize=32)
def channel_groups(arch: Arch) -> tuple[ChannelGroup, ...]:
    """Return the groups of ``arch``, in the order in which their first channels are computed.

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """
    return _traced(arch).groups(fixed=(INPUT, layers(arch)[-1].name))


@lru_cache(maxsize=32)
def channel_numbers(arch: Arch) -> Mapping[str, tuple[int, ...]]:
    """Number each channel at the output of each layer and at the ``input``.

    Tied channels share a number. After a flattening there is one channel per pixel.

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """
    trace = _traced(arch)
    return MappingProxyType(
        {name: tuple(map(trace.root, channels)) for name, channels in trace.channels.items()}
    )


def _traced(arch: Arch) -> Trace:
    trace = Trace(arch.in_channels)
    for layer in layers(arch):
        trace.follow(layer)
    return trace


class Trace:
    """The channels at every layer as numbers; tied ones lead to the same root (union-find)."""

    def __init__(self, in_channels: int) -> None:
        self.parents: list[int] = []
        self.channels: dict[str, Sequence[int]] = {INPUT: self.new(in_channels)}
        self.seen: list[tuple[Place, Sequence[int], int]] = []  # channels from a position on

    def new(self, count: int) -> range:
        """Return ``count`` new channels."""
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return range(first, first + count)

    def root(self, channel: int) -> int:
        """Return the channel that represents all those tied to ``channel``."""
        while self.parents[channel] != channel:
            self.parents[channel] = self.parents[self.parents[channel]]
            channel = self.parents[channel]
        return channel

    def tie(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """Tie channels in pairs."""
        for one, other in zip(ones, others, strict=True):
            first, second = sorted((self.root(one), self.root(other)))
            self.parents[second] = first

    def note(
        self,
        layer: AnyLayer,
        side: Side,
        channels: Sequence[int],
        parts: int = 1,
    ) -> None:
        """Record channels at a layer, in ``parts`` of equal size."""
        each = len(channels) // parts
        for part in range(parts):
            first = part * each
            self.seen.append((Place(layer.name, side, part), channels[first : first + each], first))

    def follow(self, layer: AnyLayer) -> None:
        """Process the next layer in execution order."""
        first, *others = (self.channels[name] for name in layer.inputs)
        self.channels[layer.name] = self.output(layer, first, others)

    def output(
        self, layer: AnyLayer, channels: Sequence[int], others: list[Sequence[int]]
    ) -> Sequence[int]:
        """Return the output channels of ``layer`` for those of its first and its other inputs."""
        match layer:
            case ConvLayer() if layer.is_depthwise:
                self.note(layer, "output", channels)
            case ConvLayer() | LinearLayer():
                groups = layer.groups if isinstance(layer, ConvLayer) else 1
                self.note(layer, "input", channels, groups)
                channels = self.new(layer.shape[0])
                self.note(layer, "output", channels, groups)
            case NormLayer():
                self.note(layer, "output", channels)
            case AddLayer() | ScaleLayer():
                for other in others:
                    self.tie(channels, other)
            case ConcatLayer():
                channels = [channel for part in (channels, *others) for channel in part]
            case SliceLayer():
                channels = channels[layer.begin : layer.end]
                self.note(layer, "through", channels)
            case ShuffleLayer():
                self.note(layer, "through", channels, layer.groups)
                each = len(channels) // layer.groups
                channels = [channel for i in range(each) for channel in channels[i::each]]
            case SubsampleLayer():
                zeros = self.new(layer.shape[0] - len(channels))
                self.note(layer, "through", zeros, 2)
                half = len(zeros) // 2
                channels = [*zeros[:half], *channels, *zeros[half:]]
            case FlattenLayer():
                pixels = layer.shape[0] // len(channels)
                channels = [channel for channel in channels for _ in range(pixels)]
            case ActivationLayer() | PoolLayer() | AdaptivePoolLayer():
                pass
            case _:
                assert_never(layer)
        return channels

    def groups(self, *, fixed: Iterable[str]) -> tuple[ChannelGroup, ...]:
        """Group channels by where they occur, except those at the ``fixed`` layers."""
        roots = [self.root(channel) for channel in range(len(self.parents))]
        found: defaultdict[int, list[int]] = defaultdict(list)
        for number, (_, channels, _) in enumerate(self.seen):
            for channel in channels:
                found[roots[channel]].append(number)
        for name in fixed:
            for channel in self.channels[name]:
                found.pop(roots[channel], None)
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for root in sorted(found):
            alike[tuple(found[root])].append(root)
        group_of = {root: index for index, group in enumerate(alike.values()) for root in group}
        places: list[defaultdict[Place, list[tuple[int, int]]]] = [defaultdict(list) for _ in alike]
        for place, channels, first in self.seen:
            for position, channel in enumerate(channels, first):
                group = group_of.get(roots[channel])
                if group is not None:
                    places[group][place].append((roots[channel], position))
        return tuple(
            ChannelGroup(
                size=len(group),
                places=MappingProxyType(
                    {place: tuple(p for _, p in sorted(pairs)) for place, pairs in found_at.items()}
                ),
            )
            for group, found_at in zip(alike.values(), places, strict=True)
        )


# f(s * x) = s * f(x) for every s > 0; true for ReLU6 where no value reaches 6.
HOMOGENEOUS = ("none", "relu", "relu6")


@lru_cache(maxsize=32)
def scaling_groups(arch: Arch) -> tuple[ChannelGroup, ...]:
    """Return the channels that can be scaled where computed and scaled back where read.

    The groups are those of `channel_groups`, with three differences. A depthwise convolution reads
    channels and computes new ones, so the factor before it may differ from the one behind it. A
    channel that passes a hard-swish or hard-sigmoid, or is a factor of another, is in no group,
    since f(s * x) is not s * f(x) there. Every layer that does more than rearrange channels is
    recorded with the side ``through``, because not all scale linearly.

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """
    trace, fixed = _ScalingTrace(arch.in_channels), [INPUT, layers(arch)[-1].name]
    for layer in layers(arch):
        trace.follow(layer)
        if isinstance(layer, ScaleLayer):
            fixed.extend(layer.inputs[1:])
        elif isinstance(layer, ActivationLayer) and layer.function not in HOMOGENEOUS:
            fixed.append(layer.name)
    return trace.groups(fixed=fixed)


class _ScalingTrace(Trace):
    def output(
        self, layer: AnyLayer, channels: Sequence[int], others: list[Sequence[int]]
    ) -> Sequence[int]:
        if isinstance(layer, ConvLayer) and layer.is_depthwise:
            self.note(layer, "input", channels)
            channels = self.new(len(channels))
            self.note(layer, "output", channels)
            return channels
        if isinstance(layer, ActivationLayer | AdaptivePoolLayer | PoolLayer | ScaleLayer):
            self.note(layer, "through", channels)
        if isinstance(layer, ScaleLayer):  # not tied to its factors
            return channels
        return super().output(layer, channels, others)

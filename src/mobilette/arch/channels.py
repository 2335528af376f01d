"""Which channels of a network must be cut together, and which are interchangeable.

A channel begins at the layer with weights that computes it and passes through batch norms,
activations, depthwise convolutions, pools, additions (which tie it to another), concatenations,
shuffles and splits, up to the layers that read it. Cutting it means cutting it at all these places.

For example, a stem of 8 channels, a residual block (expand to 24, depthwise, project to 8) and a
classifier have two groups. One is the 8 channels of the stem, which the addition ties to those of
``rows.0.project``; ``rows.0.expand`` and ``head.classifier`` read them. The other is the 24
channels of ``expand`` and the depthwise convolution, which ``project`` reads. The image's channels
and the logits are never cut and belong to no group.
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

    The parts of a grouped layer must keep equal channel counts, which limits how many may be cut.

    Attributes:
        size: the number of channels.
        places: the positions of the channels at each place, channel after channel. A channel has
            one position per place, or one per pixel if a linear layer reads a map of several
            pixels. Depthwise convolutions and batch norms have outputs only.
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
    return Trace(arch).groups(fixed=(INPUT, layers(arch)[-1].name))


@lru_cache(maxsize=32)
def channel_numbers(arch: Arch) -> Mapping[str, tuple[int, ...]]:
    """Number each channel at the output of each layer and at the ``input``.

    Tied channels share a number. After a flattening there is one channel per pixel.

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """
    trace = Trace(arch)
    return MappingProxyType(
        {name: tuple(map(trace.root, channels)) for name, channels in trace.channels.items()}
    )


class Trace:
    """The channels at every layer as numbers; tied ones lead to the same root (union-find)."""

    def __init__(self, arch: Arch) -> None:
        self.parents: list[int] = []
        self.channels: dict[str, Sequence[int]] = {INPUT: self.new(arch.in_channels)}
        # Places, their channels, and the position of the first of them.
        self.seen: list[tuple[Place, Sequence[int], int]] = []
        for layer in layers(arch):
            first, *others = (self.channels[name] for name in layer.inputs)
            self.channels[layer.name] = self.output(layer, first, others)

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

    def note(self, layer: AnyLayer, side: Side, channels: Sequence[int], parts: int = 1) -> None:
        """Record channels at a layer, in ``parts`` of equal size."""
        each = len(channels) // parts
        for part in range(parts):
            first = part * each
            self.seen.append((Place(layer.name, side, part), channels[first : first + each], first))

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


# f(s * x) = s * f(x) for every s > 0; for ReLU6 only where no value reaches 6.
HOMOGENEOUS = ("none", "relu", "relu6")


@lru_cache(maxsize=32)
def scaling_groups(arch: Arch) -> tuple[ChannelGroup, ...]:
    """Return the channels that can be scaled where computed and scaled back where read.

    They differ from `channel_groups` in three ways. A depthwise convolution computes new channels,
    so the factors before and after it may differ. A channel that passes a hard-swish or
    hard-sigmoid, or is a factor of another, is in no group, since f(s * x) is not s * f(x) there.
    Layers that do more than rearrange channels are recorded with the side ``through``, because not
    all are linear.

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """
    fixed = [INPUT, layers(arch)[-1].name]
    for layer in layers(arch):
        if isinstance(layer, ScaleLayer):
            fixed.extend(layer.inputs[1:])
        elif isinstance(layer, ActivationLayer) and layer.function not in HOMOGENEOUS:
            fixed.append(layer.name)
    return _ScalingTrace(arch).groups(fixed=fixed)


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

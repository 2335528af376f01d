"""The channel counts of a network that can be changed independently.

A knob is a set of channels whose count may change while all other counts stay: usually the output
of a convolution. Layers tied by an addition share a knob; where zeros are added as new channels
(option A of ResNet), the old and the new channels are two knobs. Channels that meet at a split, a
shuffle or a grouped convolution are one knob and keep their proportions, so that halves and groups
stay equal: all channels between the units of a ShuffleNet V2 stage, or of a whole ShuffleNet V1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, channel_groups, channel_numbers
from mobilette.arch.editing import set_channels
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    AnyLayer,
    ConvLayer,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
)
from mobilette.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Knob:
    """Channels that can be cut together.

    Attributes:
        layers: the layers that first compute the channels.
        channels: the number that each of these layers computes.
        bound: whether a split, shuffle, groups or zeros restrict the count.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    bound: bool

    @property
    def size(self) -> int:
        """The largest count, at which every layer has all its channels."""
        return gcd(*self.channels)


class Knobs(Sequence[Knob]):
    """The knobs of a network, in the order in which their channels are first computed."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        numbers = channel_numbers(arch)
        self._born: dict[int, str] = {}
        self._parts: dict[str, tuple[dict[int, Fraction], int]] = {}
        for name in (INPUT, *(layer.name for layer in layers(arch))):
            for number in numbers[name]:
                self._born.setdefault(number, name)
        sizes = Counter(self._born.values())
        fixed = {self._born[n] for name in (INPUT, layers(arch)[-1].name) for n in numbers[name]}
        bound = {
            self._born[n] for layer in layers(arch) for name in _bound(layer) for n in numbers[name]
        }
        self._knobs = [
            Knob(
                layers=names,
                channels=tuple(sizes[name] for name in names),
                bound=not bound.isdisjoint(names),
            )
            for names in self._meeting(list(sizes))
            if fixed.isdisjoint(names)
        ]
        self._number_of = {name: i for i, knob in enumerate(self._knobs) for name in knob.layers}

    def __getitem__(self, index: int) -> Knob:  # type: ignore[override]
        return self._knobs[index]

    def __len__(self) -> int:
        return len(self._knobs)

    def _meeting(self, names: list[str]) -> list[tuple[str, ...]]:
        """Partition ``names`` into sets whose channels keep their proportions."""
        numbers = channel_numbers(self.arch)
        tied = {name: {name} for name in names}
        for layer in layers(self.arch):
            if isinstance(layer, SliceLayer | ShuffleLayer) or _in_groups(layer):
                met = {self._born[number] for number in numbers[layer.inputs[0]]}
                together = {other for name in met for other in tied[name]}
                tied |= dict.fromkeys(together, together)
        return list(dict.fromkeys(tuple(sorted(tied[name], key=names.index)) for name in names))

    def of(self, group: ChannelGroup) -> int | None:
        """Return the index of the knob that ``group`` belongs to, if any."""
        place, positions = next((p, at) for p, at in group.places.items() if p.side == "output")
        return self._number_of.get(
            self._born[channel_numbers(self.arch)[place.layer][positions[0]]]
        )

    def parts(self, layer: str) -> tuple[dict[int, Fraction], int]:
        """Return the channels of ``layer`` per channel of each knob, and the number without one."""
        if layer not in self._parts:
            self._parts[layer] = self._count(layer)
        return self._parts[layer]

    def _count(self, layer: str) -> tuple[dict[int, Fraction], int]:
        parts: dict[int, Fraction] = {}
        others = 0
        for name, count in Counter(
            self._born[number] for number in channel_numbers(self.arch)[layer]
        ).items():
            index = self._number_of.get(name)
            if index is None:
                others += count
            else:
                share = Fraction(count, self[index].size)
                parts[index] = parts.get(index, Fraction(0)) + share
        return parts, others

    def set(self, counts: Sequence[int]) -> Arch:
        """Return the network with ``counts`` channels, one number per knob.

        Raises:
            InputError: a layer would get a fraction of a channel.
        """
        channels = {}
        for layer in layers(self.arch):
            parts, others = self.parts(layer.name)
            count = sum((share * counts[i] for i, share in parts.items()), Fraction(others))
            if count.denominator != 1:
                raise InputError(f"{layer.name}: {count} channels")
            channels[layer.name] = int(count)
        return set_channels(self.arch, channels)

    def allowed(self, counts: Sequence[int]) -> list[bool]:
        """Return for each knob whether the network can be cut to its count, whatever the others.

        The rows must fit together, and every remaining channel must come from one of this network.
        """
        full = [knob.size for knob in self]
        allowed = [
            not knob.bound or self._fits_together([*full[:i], counts[i], *full[i + 1 :]])
            for i, knob in enumerate(self)
        ]
        mixed = zip(self, counts, allowed, strict=True)
        target = self.set([count if ok else knob.size for knob, count, ok in mixed])
        knobs = Knobs(target)
        for group in channel_groups(target):
            if group.size > self._sizes.get(frozenset(group.places), 0):
                knob = knobs.of(group)
                if knob is not None:
                    allowed[knob] = False
        return allowed

    def _fits_together(self, counts: Sequence[int]) -> bool:
        try:
            layers(self.set(counts))
        except InputError:
            return False
        return True

    @cached_property
    def _sizes(self) -> dict[frozenset[object], int]:
        return {frozenset(group.places): group.size for group in channel_groups(self.arch)}


def _bound(layer: AnyLayer) -> tuple[str, ...]:
    """Return the layers whose channel counts ``layer`` restricts."""
    if isinstance(layer, SliceLayer | ShuffleLayer | SubsampleLayer) or _in_groups(layer):
        return (layer.name, *layer.inputs)
    return ()


def _in_groups(layer: AnyLayer) -> bool:
    return isinstance(layer, ConvLayer) and layer.groups > 1 and not layer.is_depthwise

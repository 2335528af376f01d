"""Which channels of a wider network stand at which positions of a narrower one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, Place, Side, channel_groups

# For each layer of the target and each side of it: for each position the one in the source whose
# weights it takes.
Sources = Mapping[tuple[str, Side], Mapping[int, int]]


class _Channel(NamedTuple):
    """A channel of the source: which group, and which of its channels."""

    group: int
    number: int


def choose_channels(source: Arch, target: Arch, contributions: Mapping[str, Tensor]) -> Sources:
    """Return for the positions of ``target`` those of ``source`` whose weights they take.

    A group of the target is filled from the source's group at the same places, the most important
    channels in their order; a channel's importance is the sum of ``contributions`` (for each layer
    that reads channels, a number for each input) over its places. What remains is filled with the
    free channels of the same layer that are computed at most of the same places, and are most
    important there; the places that these do not have are filled likewise, with others. No position
    of the source is used twice.

    The networks have the same structure and ``target`` is nowhere wider. The image's channels and
    the logits are not among the positions that are returned: they stay.
    """
    choice = _Choice(source, {layer: shares.tolist() for layer, shares in contributions.items()})
    remaining = [(group, choice.fill_alike(group)) for group in channel_groups(target)]
    for group, slots in remaining:
        weighted = tuple(place for place in group.places if place.side != "through")
        choice.fill_rest(group, slots, weighted)
    return choice.sources


class _Choice:
    """The positions filled so far, and where each channel of the source is taken."""

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
        """Fill ``group`` from the group at the same places; return the channels that remain."""
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
        """Fill the channels ``slots`` of ``group`` at ``places`` with channels that are free."""
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
        """Return the ``count`` channels that are best for ``places``, in their order."""

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

"""Pruning by structure: a network and its weights become narrower ones, the rest as it was."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, channel_groups
from mobilette.arch.knobs import Knob, Knobs
from mobilette.compression.channel_scores import Scores
from mobilette.counting.knob_madds import KnobMadds
from mobilette.errors import InputError
from mobilette.formats.channel_choice import Sources
from mobilette.formats.slicing import take_weights

MULTIPLE = 8  # what engines' kernels are made for
BOUND_MULTIPLE = 4  # halves and groups have a hard enough time
SMALLEST = 8
TOLERANCE = 0.02  # of the mult-adds, how many fewer than asked for may be left


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A narrower network.

    Attributes:
        weights: its state dict; batch norms still have the statistics of the wider network.
        kept: which positions of the wider network its positions are.
    """

    arch: Arch
    weights: dict[str, Tensor]
    kept: Sources


def prune_channels(
    arch: Arch,
    weights: Mapping[str, Tensor],
    scores: Scores,
    *,
    keep_madds: float,
    multiple: int = MULTIPLE,
) -> Pruned:
    """Return the network without its least important channels.

    Greedily, that knob (`mobilette.arch.knobs`) is turned down a step which loses least importance
    for the mult-adds that it saves, until few enough are left; what was cut too much is then given
    back where it gives most importance for its mult-adds.

    Measure the statistics of the batch norms anew (`mobilette.formats.batch_norm`) before the
    network is used: layers have lost inputs.

    Args:
        arch: the network.
        weights: its state dict; it is left alone.
        scores: how important its channels are.
        keep_madds: the part of the mult-adds that may be left, above 0 and at most 1.
        multiple: of which numbers of channels are; halves and groups are of 4 at most, or of what
            the layers' groups allow.

    Raises:
        InputError: so few mult-adds cannot be reached.
    """
    turner = _Turner(Knobs(arch), scores, multiple=multiple)
    wanted = math.floor(keep_madds * turner.before)
    turner.turn_down(wanted)
    if turner.left > wanted:
        raise InputError(
            f"{arch.name} cannot be pruned to {keep_madds:.4g} of its mult-adds: with layers of "
            f"{SMALLEST} channels, the fewest that are left, "
            f"{math.ceil(1000 * turner.left / turner.before) / 1000:g} is the smallest"
        )
    turner.give_back(wanted)
    target = turner.knobs.set(turner.counts)
    kept = _keep(arch, scores, target)
    return Pruned(arch=target, weights=take_weights(weights, target, kept), kept=kept)


class _Turner:
    """Knobs that are turned down and up, one step at a time."""

    def __init__(self, knobs: Knobs, scores: Scores, *, multiple: int) -> None:
        self.knobs, self.madds = knobs, KnobMadds(knobs)
        self.counts = [knob.size for knob in knobs]
        self.before = self.left = self.madds.total(self.counts)
        self.settings = [_settings(knob, multiple) for knob in knobs]
        self.lost = _losses(knobs, scores)
        self.allowed: dict[tuple[int, int], bool] = {}
        self.asked: list[set[int]] = [{knob.size} for knob in knobs]

    def turn_down(self, wanted: int) -> None:
        """Turn down until at most ``wanted`` mult-adds are left, or nothing more can go.

        Steps that go too far come last, the shortest first.
        """
        enough = wanted - TOLERANCE * self.before
        while self.left > wanted:
            steps = []
            for knob, count in self._next_down():
                saved = self.madds.saved(self.counts, knob, count)
                too_far = max(0.0, enough - (self.left - saved))
                steps.append((too_far, self._lost(knob, count) / saved, knob, count))
            if not steps:
                return
            self._take_first(sorted(steps))

    def give_back(self, wanted: int) -> None:
        """Turn up while at most ``wanted`` mult-adds are left."""
        while True:
            steps = []
            for knob, count in self._next_up():
                more = -self.madds.saved(self.counts, knob, count)
                if self.left + more <= wanted:
                    steps.append((0.0, self._lost(knob, count) / more, knob, count))
            if not steps:
                return
            self._take_first(sorted(steps))

    def _lost(self, knob: int, count: int) -> float:
        """Return the importance that is lost when ``knob`` is set to ``count``."""
        lost = self.lost[knob]
        return lost[count] - lost[self.counts[knob]]

    def _take_first(self, steps: list[tuple[float, float, int, int]]) -> None:
        """Take the first of ``steps`` that the network allows; forget those that it does not."""
        for _, _, knob, count in steps:
            if not self.knobs[knob].bound or self._allows(knob, count):
                self.counts = [*self.counts[:knob], count, *self.counts[knob + 1 :]]
                self.left = self.madds.total(self.counts)
                return
            self.settings[knob].remove(count)

    def _allows(self, knob: int, count: int) -> bool:
        """Return whether ``knob`` may be set to ``count``; the other knobs are asked as well."""
        if (knob, count) not in self.allowed:
            lower = [
                max((c for c in settings if c not in self.asked[i]), default=settings[-1])
                for i, settings in enumerate(self.settings)
            ]
            lower[knob] = count
            for i, ok in enumerate(self.knobs.allowed(lower)):
                self.allowed[i, lower[i]] = ok
                self.asked[i].add(lower[i])
        return self.allowed[knob, count]

    def _next_down(self) -> Iterator[tuple[int, int]]:
        for knob, settings in enumerate(self.settings):
            lower = [count for count in settings if count < self.counts[knob]]
            if lower:
                yield knob, max(lower)

    def _next_up(self) -> Iterator[tuple[int, int]]:
        for knob, settings in enumerate(self.settings):
            higher = [count for count in settings if count > self.counts[knob]]
            if higher:
                yield knob, min(higher)


def _settings(knob: Knob, multiple: int) -> list[int]:
    """Return the counts that ``knob`` may have."""
    narrowest = min(knob.channels)
    smallest = -(-min(SMALLEST, narrowest) * knob.size // narrowest)
    if knob.bound:
        multiple = min(multiple, BOUND_MULTIPLE)
    if len(set(knob.channels)) > 1:
        multiple = 1  # of shares
    return [c for c in range(smallest, knob.size) if c % multiple == 0] + [knob.size]


def _losses(knobs: Knobs, scores: Scores) -> list[list[float]]:
    """Return for each knob the importance that is lost at each count, 0 to its size.

    The least important go first, from each group of channels in proportion.
    """
    lost = [torch.zeros(knob.size + 1, dtype=torch.float64) for knob in knobs]
    for group, score in zip(channel_groups(knobs.arch), scores, strict=True):
        knob = knobs.of(group)
        if knob is None:
            continue
        left = torch.linspace(0, group.size, knobs[knob].size + 1, dtype=torch.float64)
        removed = group.size - left
        sums = torch.cat([torch.zeros(1), score.sort().values.cumsum(0)]).double()
        below = removed.floor().long()
        above = removed.ceil().long()
        lost[knob] += sums[below] + (removed - below) * (sums[above] - sums[below])
    return [sums.tolist() for sums in lost]


def _keep(arch: Arch, scores: Scores, target: Arch) -> Sources:
    """Return the most important channels of each group, in their order, as many as are left."""
    alike = {
        frozenset(group.places): (group, score)
        for group, score in zip(channel_groups(arch), scores, strict=True)
    }
    kept: defaultdict[tuple[str, object], dict[int, int]] = defaultdict(dict)
    for group in channel_groups(target):
        source, score = alike[frozenset(group.places)]
        best = score.sort(descending=True, stable=True).indices[: group.size].sort().values
        _note(kept, group, source, best.tolist())
    return kept  # type: ignore[return-value]


def _note(
    kept: defaultdict[tuple[str, object], dict[int, int]],
    group: ChannelGroup,
    source: ChannelGroup,
    channels: list[int],
) -> None:
    for number, channel in enumerate(channels):
        for place in group.places:
            to, taken_from = group.positions(place, number), source.positions(place, channel)
            kept[place.layer, place.side].update(zip(to, taken_from, strict=True))

"""Narrower models: `prune_channels` keeps the best-scored channels, `slice_to` a given width."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.channels import Side, channel_groups
from mobilette.arch.editing import adopt_details, change_convs, convs
from mobilette.arch.knobs import Knob, Knobs
from mobilette.arch.rows import Conv
from mobilette.arch.scale import Settings
from mobilette.arguments import checked
from mobilette.compression.channel_scores import Scores
from mobilette.counting.knob_madds import KnobMadds
from mobilette.errors import InputError
from mobilette.formats.slicing import Sources, slice_weights, take_weights
from mobilette.model.model import Model

MULTIPLE = 8  # suits engines' kernels
BOUND_MULTIPLE = 4  # for halves and groups, which are constrained enough
SMALLEST = 8
TOLERANCE = 0.02  # fraction of the mult-adds by which the result may miss the target


@checked
def slice_to(model: Model, arch: Arch | None = None, *, width_mult: float | None = None) -> Model:
    """Return ``model`` cut to the widths of ``arch``, or to another width multiplier.

    Each group of tied channels keeps those that contribute most to their readers
    (`mobilette.formats.importance`: Li et al. 2017, arXiv 1608.08710, with Liu et al. 2017, arXiv
    1708.06519). The result is a start for training: batch norms keep the statistics of the wider
    network until `mobilette.formats.fitting.measure_batch_norm` measures them again.

    ``arch`` is the same network, nowhere wider; ``width_mult`` refers to the catalogue network
    ``model.origin.name``.

    Raises:
        InputError: not exactly one of ``arch`` and ``width_mult`` is given, no network has that
            name, or the networks differ in more than their widths.
    """
    if (arch is None) == (width_mult is None):
        raise InputError("slice_to: give either arch or width_mult")
    if arch is None:
        arch = _of_width(model, width_mult or 0.0)
    weights = slice_weights(model.arch, model.weights, arch)
    origin = replace(model.origin, width_mult=width_mult)
    return replace(model, arch=arch, weights=weights, origin=origin)


def _of_width(model: Model, width_mult: float) -> Arch:
    """Return the model's catalogue network at another width, with the model's details."""
    settings = Settings(
        width_mult=width_mult,
        resolution=model.arch.resolution,
        num_classes=model.arch.num_classes,
        in_channels=model.arch.in_channels,
        form=model.origin.form,
    )
    given = convs(model.arch)

    def norm_as_given(name: str, conv: Conv) -> Conv:
        like = given.get(name, conv)
        return replace(conv, norm=like.norm, bias=like.bias)

    arch = adopt_details(get_arch(model.origin.name, settings), model.arch)
    return change_convs(arch, norm_as_given)  # folded where the model is


@checked
def prune_channels(
    model: Model, scores: Scores, *, keep_madds: float, multiple: int = MULTIPLE
) -> Model:
    """Return ``model`` without its least important channels (``scores``).

    Greedy: each step lowers the channel count (`mobilette.arch.knobs`) that loses the least score
    per mult-add saved; what was cut too much is then given back where it gains the most score per
    mult-add. ``keep_madds`` is the fraction of the mult-adds to keep, above 0 and at most 1.
    Channel counts are multiples of ``multiple``; halves and groups use at most 4, or what the
    layers' groups allow.

    Batch norms keep the statistics of the wider network: measure them again
    (`mobilette.formats.fitting.measure_batch_norm`) before use.

    Raises:
        InputError: the network cannot be cut to so few mult-adds.
    """
    arch = model.arch
    turner = _Turner(Knobs(arch), scores, multiple=multiple)
    wanted = math.floor(keep_madds * turner.before)
    turner.turn_down(wanted)
    if turner.left > wanted:
        raise InputError(
            f"{arch.name} cannot be pruned to {keep_madds:.4g} of its mult-adds: with the fewest "
            f"channels per layer, {SMALLEST}, "
            f"{math.ceil(1000 * turner.left / turner.before) / 1000:g} is the smallest"
        )
    turner.give_back(wanted)
    return cut_to(model, scores, turner.knobs.set(turner.counts))


def cut_to(model: Model, scores: Scores, arch: Arch) -> Model:
    """Return ``model`` cut to ``arch``, in which some of its knobs are lower.

    Of each group of tied channels those with the highest ``scores`` stay. Batch norms keep the
    statistics of the wider network.
    """
    weights = take_weights(model.weights, arch, kept_positions(model.arch, scores, arch))
    origin = replace(model.origin, width_mult=None)
    return replace(model, arch=arch, weights=weights, origin=origin)


def lost_score(arch: Arch, scores: Scores, target: Arch) -> float:
    """Return the sum of the scores of the channels that `cut_to` would remove."""
    sizes = {frozenset(group.places): group.size for group in channel_groups(target)}
    lost = 0.0
    for group, score in zip(channel_groups(arch), scores, strict=True):
        removed = group.size - sizes.get(frozenset(group.places), 0)
        lost += float(score.sort().values[:removed].sum())
    return lost


class _Turner:
    """Channel counts, lowered and raised one step at a time."""

    def __init__(self, knobs: Knobs, scores: Scores, *, multiple: int) -> None:
        self.knobs, self.madds = knobs, KnobMadds(knobs)
        self.counts = [knob.size for knob in knobs]
        self.before = self.left = self.madds.total(self.counts)
        self.settings = [counts_of(knob, multiple) for knob in knobs]
        self.lost = _losses(knobs, scores)
        self.allowed: dict[tuple[int, int], bool] = {}
        self.asked: list[set[int]] = [{knob.size} for knob in knobs]

    def turn_down(self, wanted: int) -> None:
        """Lower counts to at most ``wanted`` mult-adds, if possible; overshoot last and least."""
        enough = wanted - TOLERANCE * self.before
        while self.left > wanted:
            steps = []
            for knob, count in self._next(down=True):
                saved = self.madds.saved(self.counts, knob, count)
                too_far = max(0.0, enough - (self.left - saved))
                steps.append((too_far, self._lost(knob, count) / saved, knob, count))
            if not steps:
                return
            self._take_first(sorted(steps))

    def give_back(self, wanted: int) -> None:
        """Raise counts while at most ``wanted`` mult-adds are left."""
        while True:
            steps = []
            for knob, count in self._next(down=False):
                more = -self.madds.saved(self.counts, knob, count)
                if self.left + more <= wanted:
                    steps.append((0.0, self._lost(knob, count) / more, knob, count))
            if not steps:
                return
            self._take_first(sorted(steps))

    def _lost(self, knob: int, count: int) -> float:
        lost = self.lost[knob]
        return lost[count] - lost[self.counts[knob]]

    def _take_first(self, steps: list[tuple[float, float, int, int]]) -> None:
        """Take the first of ``steps`` that the network allows; forget those before it."""
        for _, _, knob, count in steps:
            if not self.knobs[knob].bound or self._allows(knob, count):
                self.counts = [*self.counts[:knob], count, *self.counts[knob + 1 :]]
                self.left = self.madds.total(self.counts)
                return
            self.settings[knob].remove(count)

    def _allows(self, knob: int, count: int) -> bool:
        """Whether ``knob`` may be set to ``count``; checks the others' next counts as well."""
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

    def _next(self, *, down: bool) -> Iterator[tuple[int, int]]:
        """Yield each knob with its next lower, or higher, count."""
        for knob, (settings, now) in enumerate(zip(self.settings, self.counts, strict=True)):
            others = [count for count in settings if (count < now if down else count > now)]
            if others:
                yield knob, max(others) if down else min(others)


def counts_of(knob: Knob, multiple: int = MULTIPLE) -> list[int]:
    """Return the counts that ``knob`` may be cut to, and its size, in ascending order."""
    narrowest = min(knob.channels)
    smallest = -(-min(SMALLEST, narrowest) * knob.size // narrowest)
    if knob.bound:
        multiple = min(multiple, BOUND_MULTIPLE)
    if len(set(knob.channels)) > 1:
        multiple = 1  # of shares
    return [c for c in range(smallest, knob.size) if c % multiple == 0] + [knob.size]


def _losses(knobs: Knobs, scores: Scores) -> list[list[float]]:
    """Return each knob's lost score by count, 0 to its size; the lowest scores go first."""
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


def kept_positions(arch: Arch, scores: Scores, target: Arch) -> Sources:
    """Return the positions of ``arch`` that ``target`` keeps: the best-scored channels in order."""
    alike = {
        frozenset(group.places): (group, score)
        for group, score in zip(channel_groups(arch), scores, strict=True)
    }
    kept: defaultdict[tuple[str, Side], dict[int, int]] = defaultdict(dict)
    for group in channel_groups(target):
        source, score = alike[frozenset(group.places)]
        best = score.sort(descending=True, stable=True).indices[: group.size].sort().values
        for number, channel in enumerate(best.tolist()):
            for place in group.places:
                to, taken_from = group.positions(place, number), source.positions(place, channel)
                kept[place.layer, place.side].update(zip(to, taken_from, strict=True))
    return kept

"""What NetAdapt chooses from: networks in which one group of tied channels is cut."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.knobs import Knobs
from mobilette.compression.pruning import MULTIPLE, counts_of
from mobilette.errors import InputError

# What is adapted to: milliseconds, bytes, or anything that falls with the channels.
CostOf = Callable[[Arch], float]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A network in which one group of tied channels is cut.

    Attributes:
        arch: the network.
        cost: of it.
        layers: the layers that first compute the channels.
        before: how many channels the first of them computes now.
        after: how many it would.
    """

    arch: Arch
    cost: float
    layers: tuple[str, ...]
    before: int
    after: int


def narrowest(arch: Arch, *, multiple: int = MULTIPLE) -> Arch:
    """Return ``arch`` with the fewest channels that its groups can be cut to."""
    knobs = Knobs(arch)
    counts = [counts_of(knob, multiple)[0] for knob in knobs]
    allowed = knobs.allowed(counts)
    return knobs.set(
        [count if ok else knob.size for knob, count, ok in zip(knobs, counts, allowed, strict=True)]
    )


def propose(arch: Arch, cost: CostOf, *, target: float, multiple: int = MULTIPLE) -> list[Proposal]:
    """Return for each group of tied channels its smallest cut that costs at most ``target``.

    If no cut of one group goes so far, return the furthest of each.
    """
    knobs, now = Knobs(arch), cost(arch)
    found, furthest = [], []
    for number, knob in enumerate(knobs):
        lower = counts_of(knob, multiple)[:-1]
        costs = _Cuts(knobs, number, cost)
        enough = bisect_left(lower, True, key=partial(costs.are_dearer, target))
        wanted = lower[:enough][::-1] or lower[:1]
        after = next((each for each in wanted if costs.allows(each)), None)
        if after is None:
            continue
        proposal = Proposal(
            arch=costs.arch(after),
            cost=costs.cost(after),
            layers=knob.layers,
            before=knob.channels[0],
            after=knob.channels[0] * after // knob.size,
        )
        if enough:
            found.append(proposal)
        elif proposal.cost < now:
            furthest.append(proposal)
    return found or furthest


@dataclass(frozen=True)
class _Cuts:
    """The cuts of one knob, the others as they are."""

    knobs: Knobs
    number: int
    cost_of: CostOf

    def counts(self, count: int) -> list[int]:
        full = [knob.size for knob in self.knobs]
        return [*full[: self.number], count, *full[self.number + 1 :]]

    def arch(self, count: int) -> Arch:
        return self.knobs.set(self.counts(count))

    def allows(self, count: int) -> bool:
        return (
            not self.knobs[self.number].bound
            or (self.knobs.allowed(self.counts(count))[self.number])
        )

    def cost(self, count: int) -> float:
        try:
            return self.cost_of(self.arch(count))
        except InputError:  # the rows do not fit together
            return math.inf

    def are_dearer(self, target: float, count: int) -> bool:
        return self.cost(count) > target

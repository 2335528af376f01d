"""A race between networks: each gets a little training, the better ones are trained on.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): in each round the better half of
the round before is trained for twice as long in all. Trainings are continued, so that a race costs
no more than what the losers were trained for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from mobilette.limits import AMOUNT, SECONDS, Range
from mobilette.records import Ranged

# Exponent of the cost in the reward (Tan et al. 2019, arXiv 1807.11626, section 3).
SOFT = -0.07
MOST = 24  # contenders
# After the rounds of a race, which count from 0: the cut of a network that is over the budget, the
# trainings of this and of networks one change away, and the last training.
CUT, REFINED, FINAL = 400, 500, 1_000
_FEWEST = 3
_SHORTEST = 4.0  # seconds of a first training


@dataclass(frozen=True, kw_only=True)
class Rounds(Ranged):
    """How a race goes: the contenders, and the seconds that each is trained in the first round."""

    contenders: Annotated[int, Range(1, MOST)]
    seconds: Annotated[float, SECONDS]

    @property
    def count(self) -> int:
        """The number of rounds; two contenders are left in the last."""
        return max(math.ceil(math.log2(self.contenders)), 1)

    def left(self, number: int) -> int:
        """Return how many contenders the round ``number``, from 0, has."""
        return max(math.ceil(self.contenders / (1 << number)), min(2, self.contenders))

    def trained(self, number: int) -> float:
        """Return the seconds that each is trained by the end of the round ``number``."""
        return self.seconds * (1 << number)

    @property
    def total(self) -> float:
        """The seconds of all rounds in one process."""
        whole = 0.0
        for number in range(self.count):
            before = self.trained(number - 1) if number else 0.0
            whole += self.left(number) * (self.trained(number) - before)
        return whole


def plan_rounds(available: float, *, networks: int, first: float) -> Rounds:
    """Return rounds of at most ``available`` seconds: as many contenders as these allow.

    ``networks`` is how many there are, ``first`` the seconds of a first training.
    """
    seconds = max(first, _SHORTEST)
    for count in range(min(networks, MOST), _FEWEST, -1):
        rounds = Rounds(contenders=count, seconds=seconds)
        if rounds.total <= available:
            return rounds
    count = min(networks, _FEWEST)
    return Rounds(contenders=count, seconds=seconds)


def first_seconds(limit: float) -> float:
    """Return the seconds of a first training in a fit of ``limit`` seconds."""
    return max(6.0 * math.sqrt(limit / 180.0), _SHORTEST)


@dataclass(frozen=True, kw_only=True)
class Place(Ranged):
    """A training in the race: which contender, in which round, from 0."""

    key: str
    number: Annotated[int, AMOUNT]


def next_places(
    keys: Sequence[str], rounds: Rounds, rewards: Mapping[Place, float | None]
) -> list[Place] | None:
    """Return the trainings of the current round that have no result yet, or ``None`` at the end.

    Args:
        keys: the contenders, best by the prior first.
        rounds: of the race.
        rewards: the result of each training; ``None`` for one that failed.
    """
    for number in range(rounds.count):
        now = [Place(key=key, number=number) for key in standing(keys, rounds, rewards, number)]
        open_places = [place for place in now if place not in rewards]
        if open_places:
            return open_places
    return None


def standing(
    keys: Sequence[str], rounds: Rounds, rewards: Mapping[Place, float | None], number: int
) -> list[str]:
    """Return the contenders that are in the round ``number``, best first.

    In the first round, the next on the list steps in for one that failed.
    """
    if number == 0:
        start = [Place(key=key, number=0) for key in keys]
        fit = [each.key for each in start if rewards.get(each, 0.0) is not None]
        return fit[: rounds.contenders]
    last = standing(keys, rounds, rewards, number - 1)
    return ranked(last, rewards, number - 1)[: rounds.left(number)]


def ranked(keys: Sequence[str], rewards: Mapping[Place, float | None], number: int) -> list[str]:
    """Return ``keys`` by their reward in the round ``number``, without those that failed."""
    known = {key: rewards.get(Place(key=key, number=number)) for key in keys}
    there = [(reward, key) for key, reward in known.items() if reward is not None]
    return [key for _, key in sorted(there, key=lambda pair: -pair[0])]


def final_ranking(
    keys: Sequence[str], rounds: Rounds, rewards: Mapping[Place, float | None]
) -> list[str]:
    """Return all contenders with a result, those of later rounds first, each by its reward."""
    found: list[str] = []
    for number in reversed(range(rounds.count)):
        found += ranked([key for key in keys if key not in found], rewards, number)
    return found


def reward(top1: float, *, cost: float, target: float, wanted: float | None) -> float:
    """Return what a race maximises.

    It is the accuracy; or where an accuracy is ``wanted``, at the lowest cost: accuracy, as far as
    it is wanted, times (cost / target) to the power of `SOFT`.
    """
    if wanted is None:
        return top1
    return min(top1, wanted) * float((max(cost, 1e-9) / max(target, 1e-9)) ** SOFT)

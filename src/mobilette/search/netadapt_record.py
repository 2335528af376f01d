"""``netadapt.json``: what NetAdapt was asked for, and its iterations so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mobilette.limits import AMOUNT, CHANNELS, FRACTION, SCORE, SECONDS, SHORT_STEPS, Range
from mobilette.records import Ranged, check_ranges
from mobilette.search.practice import Judgement

By = Literal["loss", "score"]

DECAY = 0.96
FIRST = 0.025
RECORD = "netadapt.json"
COST = Range(0.0, 1e18)
ITERATIONS = Range(1, 1_000)


@dataclass(frozen=True, kw_only=True)
class Iteration(Ranged):
    """An iteration, as recorded.

    Attributes:
        target: the cost that was to be met.
        cost: of the network that was kept.
        score: its accuracy on the images kept apart: top-1 or mean average precision.
        loss: its mean cross-entropy there.
        layers: the layers that first compute the channels that were cut.
        before: how many channels the first of them computed.
        after: how many it computes.
        proposals: how many there were.
        trained: how many of them were trained.
        seconds: of wall-clock.
    """

    target: Annotated[float, COST]
    cost: Annotated[float, COST]
    score: Annotated[float, FRACTION]
    loss: Annotated[float, SCORE]
    layers: tuple[str, ...]
    before: Annotated[int, CHANNELS]
    after: Annotated[int, CHANNELS]
    madds: Annotated[int, AMOUNT]
    params: Annotated[int, AMOUNT]
    proposals: Annotated[int, AMOUNT]
    trained: Annotated[int, AMOUNT]
    seconds: Annotated[float, SECONDS]


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What was asked for, and the iterations so far.

    Attributes:
        arch: hash of the network that is adapted.
        budget: the cost to be reached.
        cost: of the network before.
        score: its accuracy on the images kept apart, after a short training of its own.
        loss: its mean cross-entropy there.
        targets: of the iterations, if every cut met its target exactly.
        steps: of each short training.
        most: proposals that are trained in an iteration; 0 for all.
        by: what tells which proposal is best.
    """

    arch: str
    budget: Annotated[float, COST]
    cost: Annotated[float, COST]
    score: Annotated[float, FRACTION]
    loss: Annotated[float, SCORE]
    targets: Annotated[tuple[float, ...], COST]
    steps: Annotated[int, SHORT_STEPS]
    most: Annotated[int, AMOUNT]
    by: By
    iterations: tuple[Iteration, ...] = ()
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def last(self) -> Judgement:
        """What the newest network answers to the images kept apart."""
        newest = self.iterations[-1] if self.iterations else self
        return Judgement(score=newest.score, loss=newest.loss)


def targets_to(budget: float, start: float, iterations: int) -> tuple[float, ...]:
    """Return the costs to be met, the last is ``budget``; each step is `DECAY` of the one before.

    Raises:
        InputError: ``iterations`` is not a number of iterations.
    """
    ITERATIONS.check("iterations", iterations)
    first = (start - budget) * (1 - DECAY) / (1 - DECAY**iterations)
    done = [first * (1 - DECAY**i) / (1 - DECAY) for i in range(1, iterations)]
    return (*(start - each for each in done), budget)


def iterations_to(budget: float, start: float) -> int:
    """Return the iterations to ``budget`` if the first saves `FIRST` of the cost; at most 100."""
    for number in range(1, 100):
        if FIRST * start * (1 - DECAY**number) / (1 - DECAY) >= start - budget:
            return number
    return 100

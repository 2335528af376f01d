"""`prune` within a time limit: cutting is timed, the rest is for fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mobilette.model.model import Model
from mobilette.progress import Remark
from mobilette.training.events import Now
from mobilette.training.time_plan import MORE, PADDING, TooShortError, seconds
from mobilette.workflows.prune_images import MEASURED, SCORE_BATCH, SCORED, HeldImages
from mobilette.workflows.prune_record import Importance

TUNING_SHARE = 0.5  # smallest fraction of the time for fine-tuning
_LEAST = 0.001  # seconds; 0 would mean no limit
_FEW = 2  # images for warm-up


@dataclass(frozen=True, kw_only=True)
class CutCosts:
    """Seconds to score and cut once, to measure an accuracy, and to read the images again."""

    cut: float
    accuracy: float
    reading: float

    def of_step(self) -> float:
        """Return the seconds of a step without its fine-tuning."""
        return PADDING * (self.reading + self.cut + self.accuracy)


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """Seconds of a later step without its fine-tuning, and of each step's fine-tuning."""

    of_step: float
    tuning: float


def plan_pruning(limit: float, *, spent: float, costs: CutCosts, steps: int) -> PruningPlan:
    """Divide ``limit`` seconds, ``spent`` of them already, among ``steps``, once images are read.

    Raises:
        TooShortError: fine-tuning would have less than `TUNING_SHARE` of the time.
    """
    # The unpruned accuracy is measured as well; the first reading is over.
    before = spent + steps * costs.of_step() + PADDING * (costs.accuracy - costs.reading)
    if before > (1 - TUNING_SHARE) * limit:
        needed = math.ceil(MORE * before / (1 - TUNING_SHARE))
        raise TooShortError(
            f"a time of {seconds(limit)} is too short: reading, scoring and cutting take "
            f"{before:.1f} s of it, and fine-tuning has at least {TUNING_SHARE:.0%}; "
            f"{seconds(needed)} would do",
            needed=needed,
        )
    return PruningPlan(of_step=costs.of_step(), tuning=(limit - before) / steps)


def measure_cut(
    images: HeldImages, model: Model, *, importance: Importance, cutting: float, now: Now
) -> CutCosts:
    """Return the costs of cutting ``model`` and judging the result, measured on a few images.

    ``cutting`` is the seconds to choose channels by their scores.
    """

    def of_all(work: Callable[[int], object], images_in_all: int) -> float:
        work(_FEW)
        few = min(SCORE_BATCH, images_in_all)
        begun = now()
        work(few)
        return (now() - begun) * images_in_all / few

    train, held_out = (len(images.dataset.splits[name].labels) for name in ("train", "val"))
    scoring = 0.0
    if importance == "taylor":
        scoring = of_all(lambda few: images.taylor(model, few), min(SCORED, train))
    norms = of_all(lambda few: images.measure_norms(model, few), min(MEASURED, train))
    return CutCosts(
        cut=scoring + cutting + norms,
        accuracy=of_all(lambda few: images.accuracy(model, few), held_out),
        reading=0.0 if images.kept else images.seconds,
    )


class PruningTime:
    """The time that one pruning has left.

    ``limit`` is the seconds for all steps together, ``None`` for no limit; time starts here, by
    ``now``, in seconds.
    """

    def __init__(self, limit: float | None, *, steps: int, now: Now, remark: Remark) -> None:
        self.limit, self.steps, self.now, self.remark = limit or 0.0, steps, now, remark
        self.started = now()
        self._plan: PruningPlan | None = None

    def elapsed(self) -> float:
        """Return the seconds used so far."""
        return self.now() - self.started

    def plan(self, measure: Callable[[], CutCosts]) -> None:
        """Plan with the costs that ``measure`` finds and remark on it, if there is a limit.

        Raises:
            TooShortError: too little would be left for fine-tuning.
        """
        if not self.limit:
            return
        costs = measure()
        plan = plan_pruning(self.limit, spent=self.elapsed(), costs=costs, steps=self.steps)
        self._plan = plan
        times = f"{self.steps} times " if self.steps > 1 else ""
        self.remark(
            f"in {seconds(self.limit)}: {self.limit - self.steps * plan.tuning:.1f} s to read, "
            f"score, cut and judge, {times}{plan.tuning:.1f} s of fine-tuning"
        )

    def of_tuning(self, steps_left: int) -> float:
        """Return the seconds for the fine-tuning that starts now; 0 without a limit."""
        if self._plan is None:
            return 0.0
        later = (steps_left - 1) * self._plan.of_step
        return max((self.limit - self.elapsed() - later) / steps_left, _LEAST)

    def refused(self, error: TooShortError) -> TooShortError:
        """Return the refusal of a fine-tuning in terms of the total time."""
        if self._plan is None:
            return error
        before = self.limit - self.steps * self._plan.tuning
        needed = math.ceil(max(before + self.steps * error.needed, before / (1 - TUNING_SHARE)))
        return TooShortError(
            f"a time of {seconds(self.limit)} is too short: reading, scoring and cutting take "
            f"{before:.1f} s of it, and fine-tuning after a cut needs {error.needed:.0f} s; "
            f"{seconds(needed)} would do",
            needed=needed,
        )

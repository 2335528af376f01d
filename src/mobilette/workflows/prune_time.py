"""`prune` within a time limit: what cutting leaves is for fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mobilette.model.model import Model
from mobilette.training.events import Now, Sitting
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


def plan_pruning(limit: float, *, spent: float, costs: CutCosts, steps: int) -> float:
    """Return each step's seconds of fine-tuning: its part of what cutting leaves of ``limit``.

    ``spent`` seconds have passed, the images are read.

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
    return (limit - before) / steps


def measure_cut(
    images: HeldImages, model: Model, *, importance: Importance, cutting: float, now: Now
) -> CutCosts:
    """Return a step's costs, measured on a few images; ``cutting`` is for a cut after scoring."""

    def of_all(work: Callable[[int], object], total: int) -> float:
        work(_FEW)
        few = min(SCORE_BATCH, total)
        begun = now()
        work(few)
        return (now() - begun) * total / few

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
    """The time left of ``limit`` seconds for all steps of a pruning together; 0 is no limit."""

    def __init__(self, limit: float, *, steps: int, sitting: Sitting) -> None:
        self.limit, self.steps, self.sitting = limit, steps, sitting
        # Seconds of a step without its fine-tuning, and before all fine-tuning.
        self._of_step, self._before = 0.0, 0.0

    def plan(self, costs: CutCosts) -> None:
        """Plan with measured ``costs`` and remark on it.

        Raises:
            TooShortError: too little would be left for fine-tuning.
        """
        elapsed = self.sitting.elapsed()
        tuning = plan_pruning(self.limit, spent=elapsed, costs=costs, steps=self.steps)
        self._of_step, self._before = costs.of_step(), self.limit - self.steps * tuning
        times = f"{self.steps} times " if self.steps > 1 else ""
        self.sitting.reporter.remark(
            f"in {seconds(self.limit)}: {self._before:.1f} s to read, score, cut and judge, "
            f"{times}{tuning:.1f} s of fine-tuning"
        )

    def of_tuning(self, steps_left: int) -> float:
        """Return the seconds for the fine-tuning that starts now."""
        left = self.limit - self.sitting.elapsed() - (steps_left - 1) * self._of_step
        return max(left / steps_left, _LEAST)

    def refused(self, error: TooShortError) -> TooShortError:
        """Return the refusal of a fine-tuning in terms of the total time."""
        if not self.limit:
            return error
        before = self._before
        needed = math.ceil(max(before + self.steps * error.needed, before / (1 - TUNING_SHARE)))
        return TooShortError(
            f"a time of {seconds(self.limit)} is too short: reading, scoring and cutting take "
            f"{before:.1f} s of it, and fine-tuning after a cut needs {error.needed:.0f} s; "
            f"{seconds(needed)} would do",
            needed=needed,
        )

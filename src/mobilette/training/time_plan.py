"""Fits training into a time limit: the plan before it, and the pace of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from mobilette.errors import InputError
from mobilette.progress import Advance
from mobilette.training.events import Now
from mobilette.training.recipe import Recipe
from mobilette.training.state import Progress

PADDING = 1.15  # safety factor on times measured once: the machine may become busier
# Largest fraction of the time for epochs that train only the classifier.
FROZEN_SHARE = 0.5
# Fewer steps train nothing.
LEAST_STEPS = 8
# A proposed time exceeds what is needed by this factor: costs are measured anew.
MORE = 1.2
_TELLING = 256  # images after which the reading speed is known


class TooShortError(InputError):
    """There is too little time; ``needed`` seconds are enough."""

    def __init__(self, message: str, *, needed: float) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured seconds of a step, of one that trains only the classifier, and of a validation.

    ``first_reading`` and ``reading`` are of a step's images, the latter from memory or the cache.
    ``overlap``: whether the next images are read during a step.
    """

    step: float
    frozen_step: float
    validation: float
    first_reading: float = 0.0
    reading: float = 0.0
    overlap: bool = False

    def of_steps(self, *, frozen: bool) -> tuple[float, float]:
        """Return the seconds of a step whose images are read for the first time, and again."""
        step = self.frozen_step if frozen else self.step
        if self.overlap:
            return max(step, self.first_reading), max(step, self.reading)
        return step + self.first_reading, step + self.reading


class _Steps:
    """The seconds of steps of which the first ``unread`` read their images for the first time."""

    def __init__(self, costs: tuple[float, float], unread: int) -> None:
        self.first, self.later = costs
        self.unread = max(unread, 0)

    def seconds(self, steps: int) -> float:
        first = min(steps, self.unread)
        return first * self.first + (steps - first) * self.later

    def within(self, available: float) -> int:
        """Return how many steps end within ``available`` seconds."""
        fit = int(available / max(self.first, 1e-9))
        if fit < self.unread:
            return max(fit, 0)
        left = available - self.unread * self.first
        return self.unread + max(int(left / max(self.later, 1e-9)), 0)


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """How a time limit is used.

    ``frozen_steps`` train only the classifier, then ``steps`` train everything; ``seconds`` is the
    total, including those spent before.
    """

    frozen_steps: int
    steps: int
    seconds: float


def plan_time(
    limit: float,
    *,
    spent: float,
    costs: Costs,
    steps_of_epoch: int,
    frozen_steps: int,
    unread: int = 0,
) -> TimePlan:
    """Return how ``limit`` seconds are used, ``spent`` of them already.

    The ``frozen_steps`` of all frozen epochs are cut short if they, and the validation after them,
    would take more than `FROZEN_SHARE` of the time; the rest is for steps that train everything.
    ``unread`` is the number of steps that read images for the first time.

    Raises:
        TooShortError: fewer than `LEAST_STEPS` fit, or an epoch if that is shorter; with a time
            that would do at these costs.
    """
    least = min(LEAST_STEPS, steps_of_epoch)
    least_frozen = min(least, frozen_steps)
    alone = _Steps(costs.of_steps(frozen=True), unread)
    # How many frozen steps there will be is not known yet: assume the fewest.
    together = _Steps(costs.of_steps(frozen=False), unread - least_frozen)
    end = PADDING * (costs.validation + (together.first if unread > 0 else together.later))
    frozen_end = costs.validation if frozen_steps else 0.0
    first = alone.seconds(least_frozen) + frozen_end
    rest = together.seconds(least)
    needed = max(first + rest, first / FROZEN_SHARE)
    available = limit - spent - end
    # A proposed time must be accepted: both are rounded.
    if available < needed * (1 - 1e-9):
        would_do = math.ceil(MORE * (spent + end + needed))
        raise TooShortError(
            f"a time of {seconds(limit)} is too short: {spent:.1f} s are over before the first "
            f"step, {least} steps take {rest:.1f} s and a validation "
            f"{costs.validation:.1f} s; {seconds(would_do)} would do",
            needed=would_do,
        )
    if frozen_steps:
        fit = alone.within(min(FROZEN_SHARE * available, available - rest) - frozen_end)
        frozen_steps = min(frozen_steps, max(fit, least_frozen))
    before = alone.seconds(frozen_steps) + frozen_end
    together = _Steps(costs.of_steps(frozen=False), unread - frozen_steps)
    steps = max(together.within(available - before), 1)
    return TimePlan(
        frozen_steps=frozen_steps,
        steps=steps,
        seconds=min(spent + before + together.seconds(steps) + end, limit),
    )


def timed_reading(report: Advance, *, limit: float, elapsed: Callable[[], float]) -> Advance:
    """Return ``report`` with a check: `TooShortError` if reading alone would exceed the limit.

    ``limit`` is in seconds, 0 for none; ``elapsed`` returns how many have passed.
    """
    if not limit:
        return report
    begun: tuple[int, float] | None = None

    def tell(done: int, total: int) -> None:
        nonlocal begun
        report(done, total)
        over = elapsed()
        begun = begun or (done, over)
        read = done - begun[0]
        if read < _TELLING or over <= begun[1]:
            return
        speed = read / (over - begun[1])
        whole = over + (total - done) / speed
        if whole > PADDING * limit:
            would_do = math.ceil(2 * whole)
            raise TooShortError(
                f"a time of {seconds(limit)} is too short: reading {total:,} images takes "
                f"{whole:.0f} s at {speed:.0f} per second; {seconds(would_do)} would leave as much "
                "for training",
                needed=would_do,
            )

    return tell


def seconds(value: float) -> str:
    """Return a time in the format of ``--time``."""
    return f"{value:g}s"


def describe(plan: TimePlan, costs: Costs, *, limit: float, steps_of_epoch: int) -> str:
    """Return the plan in one line."""
    alone = ""
    if plan.frozen_steps:
        epochs = plan.frozen_steps / steps_of_epoch
        alone = f"{plan.frozen_steps:,} steps of the classifier alone ({epochs:.2g} epochs), then "
    first, later = costs.of_steps(frozen=False)
    reading = f", {1000 * first:.0f} ms until all images are decoded" if first > later else ""
    return (
        f"in {seconds(limit)}: {alone}about {plan.steps:,} steps "
        f"({plan.steps / steps_of_epoch:.2g} epochs of {1000 * later:.0f} ms steps{reading}, less "
        f"further validations); a validation takes {costs.validation:.1f} s"
    )


# Largest fraction of the time for validation, under a time limit.
_VALIDATION_SHARE = 0.1


class Pace:
    """The clock of a sitting: how far the run is, and how long steps and validations take.

    ``steps`` are per epoch; ``started`` is when the run would have begun by ``now`` without breaks,
    in seconds; ``validation`` is the measured seconds of a validation.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        steps: int,
        started: float,
        validation: float = 0.0,
        now: Now = time.perf_counter,
    ) -> None:
        self.recipe, self.steps, self.started = recipe, steps, started
        self.now = now
        self._validation_seconds = validation
        self._validated_at = now()
        # Without this sitting's first step, which includes one-off work.
        self._timed_seconds, self._timed_steps, self._longest_step = 0.0, -1, 0.0

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return self.now() - self.started

    def step_took(self, seconds: float) -> None:
        """Record the seconds of a step, including the wait for its images."""
        self._timed_steps += 1
        if self._timed_steps > 0:
            self._timed_seconds += seconds
            self._longest_step = max(self._longest_step, seconds)

    def validation_took(self, seconds: float) -> None:
        """Record the seconds of a validation that has just ended."""
        self._validation_seconds = seconds
        self._validated_at = self.now()

    def part_done(self, progress: Progress, *, longest_save: float) -> float:
        """Return the fraction of the run that is done, 0 to 1 or slightly more.

        A time limit includes the last validation, the step that begins just in time, and taking and
        writing a snapshot, ``longest_save`` seconds each.
        """
        if self.recipe.time_limit:
            end = self._validation_seconds + self._seconds_of_step() + 2 * longest_save
            available = self.recipe.time_limit - PADDING * end
            return self.elapsed() / max(available, 1e-9)
        # By epochs: the batch size may have changed on resuming.
        done = progress.epoch * self.steps + progress.step
        return done / (self.recipe.epochs * self.steps)

    def is_over(self, progress: Progress, part: float) -> bool:
        """Whether a run is over at the end of an epoch; ``part`` is from `part_done`."""
        return part >= 1.0 if self.recipe.time_limit else progress.epoch >= self.recipe.epochs

    def worth_validating(self) -> tuple[float, float]:
        """Return the seconds since the last validation, and the least there should be."""
        since = self.now() - self._validated_at
        return since, self._validation_seconds / _VALIDATION_SHARE

    def _seconds_of_step(self) -> float:
        if self._timed_steps < 2:
            return max(self._timed_seconds, 0.0)
        return (self._timed_seconds - self._longest_step) / (self._timed_steps - 1)

"""How far a run is, by its epochs or by the clock, and what is left of its time."""

from __future__ import annotations

import time

from mobilette.training.clock import Now
from mobilette.training.recipe import Recipe
from mobilette.training.state import Progress
from mobilette.training.time_plan import PADDING

# Under a time limit: what validation may take.
_VALIDATION_SHARE = 0.1


class Pace:
    """The time of one sitting of a run: what its steps and validations take.

    Args:
        recipe: says how long the run may take, or how many epochs it has.
        steps: of an epoch.
        started: when the run began, by ``now``; earlier sittings count as if it had begun that much
            sooner.
        validation: seconds that a validation takes, as measured before; only a time limit asks.
        now: tells the time, in seconds.
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
        # Of this sitting's steps but the first, which makes what the others find.
        self._timed_seconds, self._timed_steps, self._longest_step = 0.0, -1, 0.0

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return self.now() - self.started

    def step_took(self, seconds: float) -> None:
        """Take in what a step took, with the wait for its images."""
        self._timed_steps += 1
        if self._timed_steps > 0:
            self._timed_seconds += seconds
            self._longest_step = max(self._longest_step, seconds)

    def validation_took(self, seconds: float) -> None:
        """Take in what a validation took that has just ended."""
        self._validation_seconds = seconds
        self._validated_at = self.now()

    def part_done(self, progress: Progress, *, longest_save: float) -> float:
        """Return the part of the run that is over, 0 to 1 and a little more.

        Under a time limit, the last validation has to fit in as well, the step that begins just
        in time, and a state of ``longest_save`` seconds, which is taken down and written.
        """
        if self.recipe.time_limit:
            end = self._validation_seconds + self._seconds_of_step() + 2 * longest_save
            available = self.recipe.time_limit - PADDING * end
            return self.elapsed() / max(available, 1e-9)
        # By epochs: a run that goes on with another batch size has had steps of the old one.
        done = progress.epoch * self.steps + progress.step
        return done / (self.recipe.epochs * self.steps)

    def is_over(self, progress: Progress, part: float) -> bool:
        """Whether a run, whose epoch has just ended, is over; ``part`` is what `part_done` said."""
        return part >= 1.0 if self.recipe.time_limit else progress.epoch >= self.recipe.epochs

    def worth_validating(self) -> tuple[float, float]:
        """Return the seconds since the last validation, and how many it should be at least."""
        since = self.now() - self._validated_at
        return since, self._validation_seconds / _VALIDATION_SHARE

    def _seconds_of_step(self) -> float:
        if self._timed_steps < 2:
            return max(self._timed_seconds, 0.0)
        return (self._timed_seconds - self._longest_step) / (self._timed_steps - 1)

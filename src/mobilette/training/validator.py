"""When the averaged weights are validated, and what is made of it."""

from __future__ import annotations

import math

from mobilette.data.dataset import Dataset
from mobilette.run.metrics import Metrics
from mobilette.training.events import EpochDone, Report
from mobilette.training.last_state import LastState, metrics_row
from mobilette.training.pace import Pace
from mobilette.training.recovery import DivergedError, Parts
from mobilette.training.schedule import learning_rate
from mobilette.training.state import Progress
from mobilette.training.step import Trainer
from mobilette.training.validation import validate


class Validator:
    """The validations of one sitting of a run.

    Args:
        trainer: whose average is validated.
        dataset: with the splits ``train`` and ``val``.
        steps: of an epoch.
        share: images of a step in this process.
        pace: is told what a validation took.
        parts: of a step, where memory is scarce.
        last_state: keeps the best weights.
        report: is told the result.
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: Dataset,
        *,
        steps: int,
        share: int,
        pace: Pace,
        parts: Parts,
        last_state: LastState,
        report: Report,
    ) -> None:
        self.trainer, self.dataset, self.recipe = trainer, dataset, trainer.recipe
        self.steps, self.share, self.pace, self.parts = steps, share, pace, parts
        self.last_state, self.report = last_state, report

    def has_seen(self, progress: Progress) -> bool:
        """Whether the weights as they are have been."""
        rows = progress.rows
        return bool(rows) and int(rows[-1].split(",")[1]) == progress.index

    def is_due(self, progress: Progress) -> bool:
        """Whether the epoch that is over ends with a validation."""
        if progress.epoch == self.recipe.frozen_epochs:  # the head alone may remain the best
            return True
        if not self.recipe.time_limit:
            return progress.epoch % self.recipe.validate_every == 0
        since, needed = self.trainer.world.agree_on(self.pace.worth_validating())
        return since >= needed

    def run(self, progress: Progress, part: float) -> None:
        """Validate after ``part`` of the run; ``progress`` takes it down.

        Raises:
            DivergedError: the loss is not finite.
        """
        begun = self.pace.now()
        metrics = self._metrics(progress)
        if not math.isfinite(metrics.loss):  # the last step did it, if there was one
            if progress.index == 0:
                return
            progress.epoch -= 1
            raise DivergedError(f"the loss on held-out images is {metrics.loss}")
        is_best = metrics.score > progress.best_score
        if is_best:
            progress.best_score, progress.since_best = metrics.score, 0
            if self.trainer.world.writes:
                self.last_state.hold_best(self.trainer.average.network)
        else:
            progress.since_best += 1
        train_loss = progress.loss_sum / progress.step if progress.step else math.nan
        rate = learning_rate(self.recipe, part) * progress.rate_factor
        epochs = self._epochs_done(progress)
        row = metrics_row(
            progress,
            metrics,
            epochs=epochs,
            elapsed=self.pace.elapsed(),
            rate=rate,
            train_loss=train_loss,
        )
        progress.rows += (row,)
        self.pace.validation_took(self.pace.now() - begun)
        self.report(
            EpochDone(
                epoch=epochs,
                frozen=0 < progress.epoch <= self.recipe.frozen_epochs,
                step=progress.index,
                lr=rate,
                train_loss=train_loss,
                metrics=metrics,
                is_best=is_best,
            )
        )

    def _epochs_done(self, progress: Progress) -> float:
        """Return after how many epochs the run is, in thousandths where one was cut short."""
        return progress.epoch - math.ceil(1000 * progress.missing / self.steps) / 1000

    def _metrics(self, progress: Progress) -> Metrics:
        share = self.share

        def measure() -> Metrics:
            scarce = progress.parts > self.recipe.accumulate  # memory has run out before
            return validate(
                self.trainer,
                self.dataset,
                epoch=progress.epoch - 1,
                at_once=share // progress.parts if scarce else None,
            )

        return self.parts.work(measure, progress, images=share)

"""Validation of the averaged weights on the held-out images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.data.dataset import Dataset
from mobilette.data.images import Labels
from mobilette.data.splits import Split
from mobilette.data.store import part_of
from mobilette.errors import InputError
from mobilette.model.answering import Answering
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import measure
from mobilette.run.temperature import fit_temperature
from mobilette.training.events import EpochDone, Listener
from mobilette.training.optimiser import learning_rate
from mobilette.training.recovery import DivergedError, Parts
from mobilette.training.sampling import Purpose, generator
from mobilette.training.state import LastState, Progress
from mobilette.training.step import Trainer
from mobilette.training.time_plan import Pace

IMAGES, BATCH = 512, 128


def images_to_measure(
    trainer: Trainer, train: Split, *, epoch: int, at_once: int | None = None
) -> Iterator[Tensor]:
    """Yield normalised batches of `BATCH` (at most ``at_once``) of `IMAGES` random images."""
    chosen = torch.randperm(
        len(train.labels), generator=generator(trainer.recipe.seed, Purpose.statistics, epoch)
    )[:IMAGES]
    # Equal parts: every batch counts the same.
    for rows in chosen.tensor_split(-(-len(chosen) // min(BATCH, at_once or BATCH))):
        pixels = torch.from_numpy(train.pixels[rows.numpy()]).to(trainer.device)
        yield trainer.normalise(pixels).contiguous(memory_format=torch.channels_last)


def held_out_answers(
    trainer: Trainer, dataset: Dataset, *, epoch: int, at_once: int | None = None
) -> tuple[NDArray[np.float32], Labels]:
    """Return the averaged weights' logits on ``val``, and the labels; the processes share the work.

    Their batch norm statistics are measured first, if the recipe says so. ``epoch`` is the last
    one, from 0; ``at_once`` limits the images that go through the network together.

    Raises:
        InputError: no image of ``val`` can be read any more.
    """
    recipe, average = trainer.recipe, trainer.average
    if recipe.norm_statistics == "batch" and epoch >= recipe.frozen_epochs:
        batches = images_to_measure(trainer, dataset.splits["train"], epoch=epoch, at_once=at_once)
        average.measure_statistics(batches)
    split = dataset.splits["val"]
    # One part per process, in order, so that together they are the split again.
    ends = np.linspace(0, len(split.labels), trainer.world.size + 1).astype(int)
    first, last = ends[trainer.world.rank], ends[trainer.world.rank + 1]
    own = checkpoint_logits(
        average.network, trainer.normalise, part_of(split.pixels, first, last), at_once=at_once
    )
    usable = split.usable()[first:last]
    logits = np.concatenate(trainer.world.all_gather(own[usable]))
    counted = np.concatenate(trainer.world.all_gather(usable))
    if not counted.any():
        raise InputError(f"{dataset.source}: none of the held-out images can be read any more")
    return logits, split.labels[counted]


class Validator:
    """Decides when the averaged weights are validated, and records the result.

    ``steps`` are per epoch, ``share`` is the images per step in this process. ``calibration`` says
    how the best weights' temperature was fitted.
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
        report: Listener,
    ) -> None:
        self.trainer, self.dataset, self.recipe = trainer, dataset, trainer.recipe
        self.steps, self.share, self.pace, self.parts = steps, share, pace, parts
        self.last_state, self.report = last_state, report
        self.calibration = ""

    def has_seen(self, progress: Progress) -> bool:
        """Whether the current weights have been validated."""
        rows = progress.rows
        return bool(rows) and int(rows[-1].split(",")[1]) == progress.index

    def is_due(self, progress: Progress) -> bool:
        """Whether the finished epoch ends with a validation."""
        if progress.epoch == self.recipe.frozen_epochs:  # the head alone may remain the best
            return True
        if not self.recipe.time_limit:
            return progress.epoch % self.recipe.validate_every == 0
        since, needed = self.trainer.world.all_reduce_max(self.pace.worth_validating())
        return since >= needed

    def run(self, progress: Progress, part: float) -> None:
        """Validate after ``part`` of the run into ``progress``; `DivergedError` if not finite."""
        begun = self.pace.now()
        logits, labels = self._answers(progress)
        metrics = measure(logits, labels, self.dataset.classes)
        if not math.isfinite(metrics.loss):  # because of the last step, if there was one
            if progress.index == 0:
                return
            progress.epoch -= 1
            raise DivergedError(f"the loss on held-out images is {metrics.loss}")
        is_best = metrics.score > progress.best_score
        if is_best:
            progress.best_score, progress.since_best = metrics.score, 0
            if self.trainer.world.writes:
                answering = self._calibrated(logits, labels)
                self.last_state.hold_best(self.trainer.average.network, answering)
        else:
            progress.since_best += 1
        train_loss = progress.loss_sum / progress.step if progress.step else math.nan
        rate = learning_rate(self.recipe, part) * progress.rate_factor
        # In thousandths, if epochs were cut short.
        epochs = progress.epoch - math.ceil(1000 * progress.missing / self.steps) / 1000
        top5 = "" if metrics.top5 is None else f"{metrics.top5:.6f}"
        row = (
            f"{epochs:g},{progress.index},{self.pace.elapsed():.3f},{rate:.6g},"
            f"{train_loss:.6f},{metrics.loss:.6f},{metrics.top1:.6f},{top5},"
            f"{progress.images / progress.training_seconds:.1f}"
        )
        if metrics.mean_average_precision is not None:
            row += f",{metrics.mean_average_precision:.6f}"
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

    def _calibrated(self, logits: NDArray[np.float32], labels: Labels) -> Answering:
        temperature, why_not = fit_temperature(logits, labels)
        how = f"not fitted: {why_not}" if why_not else f"fitted on {len(labels):,} images held out"
        self.calibration = f"temperature {temperature:g}, {how}"
        return Answering(temperature=temperature)

    def _answers(self, progress: Progress) -> tuple[NDArray[np.float32], Labels]:
        def answers() -> tuple[NDArray[np.float32], Labels]:
            scarce = progress.parts > self.recipe.accumulate  # memory has run out before
            return held_out_answers(
                self.trainer,
                self.dataset,
                epoch=progress.epoch - 1,
                at_once=self.share // progress.parts if scarce else None,
            )

        return self.parts.work(answers, progress, images=self.share)

"""Validation of the averaged weights on the held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.data.dataset import Dataset
from mobilette.data.images import Labels
from mobilette.data.splits import Split
from mobilette.data.store import part_of
from mobilette.errors import InputError
from mobilette.files import write_json
from mobilette.model.directory import ANSWERING, read_answering, read_weights
from mobilette.run.answers import Fitted, fit_answering
from mobilette.run.directory import Run
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import measure
from mobilette.run.promise import parse_promise
from mobilette.training.events import EpochDone, Listener
from mobilette.training.optimiser import learning_rate
from mobilette.training.recovery import DivergedError, Parts
from mobilette.training.sampling import Purpose, generator
from mobilette.training.state import LastState, Progress
from mobilette.training.step import Trainer
from mobilette.training.time_plan import Pace

IMAGES, BATCH = 512, 128
# Logits (N, classes), and labels.
Answers = tuple[NDArray[np.float32], Labels]


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
) -> Answers:
    """Return the averaged weights' logits on ``val``, and the labels, as `answers_to` does.

    Their batch norm statistics are measured first, if the recipe says so. ``epoch`` is the last
    one, from 0.
    """
    recipe, average = trainer.recipe, trainer.average
    if recipe.norm_statistics == "batch" and epoch >= recipe.frozen_epochs:
        batches = images_to_measure(trainer, dataset.splits["train"], epoch=epoch, at_once=at_once)
        average.measure_statistics(batches)
    return answers_to(trainer, dataset, "val", at_once=at_once)


def answers_to(
    trainer: Trainer, dataset: Dataset, name: str, *, at_once: int | None = None
) -> Answers:
    """Return the averaged weights' logits on a split, and the labels; the processes share the work.

    ``at_once`` limits the images that go through the network together.

    Raises:
        InputError: no image of it can be read any more.
    """
    average, split = trainer.average, dataset.splits[name]
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

    ``steps`` are per epoch, ``share`` is the images per step in this process. ``fitted`` is how the
    best weights of this sitting answer.
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
        self.asked = parse_promise(trainer.recipe.promise) if trainer.recipe.promise else None
        self.fitted: Fitted | None = None

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
                self.fitted = fit_answering(logits, labels, split="val", asked=self.asked)
                self.last_state.hold_best(self.trainer.average.network, self.fitted.answering)
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

    def promise_on_test(self, run: Run, progress: Progress) -> None:
        """Make the best weights' promise anew, on ``test``: its images have chosen nothing."""
        if self.asked is None or "test" not in self.dataset.splits:
            return
        best = read_weights(run.weights_path, run.arch)
        self.trainer.average.network.load_state_dict(best)
        logits, labels = self._work(
            lambda at_once: answers_to(self.trainer, self.dataset, "test", at_once=at_once),
            progress,
        )
        before = read_answering(run.path)
        found = fit_answering(
            logits, labels, split="test", asked=self.asked, temperature=before.temperature
        )
        said = self.fitted.remarks[:1] if self.fitted is not None else ()
        self.fitted = replace(found, remarks=(*said, *found.remarks))
        if self.trainer.world.writes:
            write_json(run.path / ANSWERING, asdict(found.answering))

    def _answers(self, progress: Progress) -> Answers:
        return self._work(
            lambda at_once: held_out_answers(
                self.trainer, self.dataset, epoch=progress.epoch - 1, at_once=at_once
            ),
            progress,
        )

    def _work(self, answers: Callable[[int | None], Answers], progress: Progress) -> Answers:
        """Return ``answers`` for as many images at once as the memory holds."""

        def work() -> Answers:
            scarce = progress.parts > self.recipe.accumulate  # memory has run out before
            return answers(self.share // progress.parts if scarce else None)

        return self.parts.work(work, progress, images=self.share)

"""Epochs, validation, checkpoints."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mobilette.data.dataset import Dataset
from mobilette.errors import InputError
from mobilette.files import write_bytes, write_text
from mobilette.run.directory import METRICS, METRICS_HEADER, STATE, WEIGHTS
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import Metrics, measure
from mobilette.training.interruption import StopRequest
from mobilette.training.optimiser import learning_rate
from mobilette.training.randomness import Purpose, generator
from mobilette.training.start import MEASURED_BATCH, MEASURED_PICTURES
from mobilette.training.state import Progress, save_state
from mobilette.training.step import Trainer

SECONDS_BETWEEN_STATES = 30.0


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """Sent after every step: where the run is and how fast it goes."""

    epoch: int
    epochs: int | None
    step: int
    steps: int
    images_per_second: float
    loss: float
    part: float


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """Sent after every epoch, when its weights were validated."""

    epoch: int
    lr: float
    train_loss: float
    metrics: Metrics
    is_best: bool


Event = StepDone | EpochDone
Report = Callable[[Event], None]


class Loop:
    """The epochs of one run, from wherever it stands to its end."""

    def __init__(
        self,
        trainer: Trainer,
        progress: Progress,
        dataset: Dataset,
        *,
        folder: Path,
        device: torch.device,
        started: float,
        report: Report,
    ) -> None:
        self.trainer, self.progress, self.folder = trainer, progress, folder
        self.recipe, self.report = trainer.recipe, report
        self.classes = dataset.classes
        train = dataset.splits["train"]
        self.pixels = torch.from_numpy(train.pixels).to(device)
        self.labels = torch.from_numpy(train.labels).to(device)
        self.validation = dataset.splits["val"]
        self.batch = min(self.recipe.batch_size, len(self.labels))
        self.steps = len(self.labels) // self.batch
        self.device = device
        # Wall-clock of earlier sittings counts as if this one had begun that much sooner.
        self.started = started - progress.elapsed
        self.validation_seconds = 0.0
        self.saved_at = time.perf_counter()
        self.stop = StopRequest()

    def run(self) -> Progress:
        """Train to the end; a Ctrl-C writes the state first, between two steps."""
        # The global generator is seeded for every step: give the caller's back afterwards.
        with torch.random.fork_rng(), self.stop:
            if self.progress.index == 0:
                self._save()  # initial weights may come from a run that is gone when this resumes
            while not self.progress.finished:
                self._epoch()
        return self.progress

    def _is_over(self) -> bool:
        if self.recipe.time_limit:
            return self._part() >= 1.0
        return self.progress.epoch >= self.recipe.epochs

    def _part(self) -> float:
        """Return the part of the run that is over, 0 to 1."""
        if self.recipe.time_limit:
            # The last validation has to fit in as well.
            available = self.recipe.time_limit - self.validation_seconds
            return (time.perf_counter() - self.started) / max(available, 1e-9)
        return self.progress.index / (self.recipe.epochs * self.steps)

    def _epoch(self) -> None:
        progress = self.progress
        order = torch.randperm(
            len(self.labels), generator=generator(self.recipe.seed, Purpose.order, progress.epoch)
        ).to(self.device)
        self.trainer.begin_epoch(progress.epoch)
        part = self._part()
        # However short the time: a run that trained one step can be validated and exported.
        while progress.step < self.steps and (part < 1.0 or progress.index == 0):
            chosen = order[progress.step * self.batch : (progress.step + 1) * self.batch]
            self._step(self.pixels[chosen], self.labels[chosen], part)
            part = self._part()
        self._end_epoch(part)

    def _step(self, pixels: Tensor, labels: Tensor, part: float) -> None:
        progress = self.progress
        begun = time.perf_counter()
        loss = self.trainer.step(
            pixels,
            labels,
            index=progress.index,
            place=(progress.epoch, progress.step),
            progress=part,
        ).item()
        progress.step += 1
        progress.index += 1
        progress.images += len(labels)
        progress.loss_sum += loss
        progress.training_seconds += time.perf_counter() - begun
        if not np.isfinite(loss):
            raise InputError(
                f"{self.folder}: the loss is {loss} at epoch {progress.epoch + 1}, step "
                f"{progress.step}; a smaller --lr than {self.recipe.lr:g} is needed"
            )
        self.report(
            StepDone(
                epoch=progress.epoch,
                epochs=None if self.recipe.time_limit else self.recipe.epochs,
                step=progress.step,
                steps=self.steps,
                images_per_second=progress.images / progress.training_seconds,
                loss=progress.loss_sum / progress.step,
                part=self._part(),
            )
        )
        self._stop_if_requested()
        if time.perf_counter() - self.saved_at > SECONDS_BETWEEN_STATES:
            self._save()

    def _stop_if_requested(self) -> None:
        if self.stop.requested and not self.progress.finished:
            self._save()
            command = f"mobilette train --resume {shlex.quote(str(self.folder))}"
            raise KeyboardInterrupt(f"stopped; to go on: {command}")

    def _end_epoch(self, part: float) -> None:
        progress = self.progress
        begun = time.perf_counter()
        if self.recipe.norm_statistics == "batch" and progress.epoch >= self.recipe.frozen_epochs:
            self.trainer.average.measure_statistics(self._batches_to_measure())
        average = self.trainer.average.network
        logits = checkpoint_logits(average, self.trainer.normalise, self.validation.pixels)
        metrics = measure(logits, self.validation.labels, self.classes)
        self.validation_seconds = time.perf_counter() - begun
        train_loss = progress.loss_sum / max(progress.step, 1)
        rate = learning_rate(self.recipe, part)
        is_best = metrics.top1 > progress.best_top1
        if is_best:
            progress.best_top1 = metrics.top1
            tensors = {k: v.contiguous().cpu() for k, v in average.state_dict().items()}
            write_bytes(self.folder / WEIGHTS, save(tensors))
        progress.epoch += 1
        row = (
            f"{progress.epoch},{progress.index},{self._elapsed():.3f},{rate:.6g},"
            f"{train_loss:.6f},{metrics.loss:.6f},{metrics.top1:.6f},{metrics.top5:.6f},"
            f"{progress.images / progress.training_seconds:.1f}"
        )
        progress.rows += (row,)
        progress.step, progress.loss_sum = 0, 0.0
        progress.finished = self._is_over()
        self._save()
        self.report(
            EpochDone(
                epoch=progress.epoch,
                lr=rate,
                train_loss=train_loss,
                metrics=metrics,
                is_best=is_best,
            )
        )
        self._stop_if_requested()

    def _batches_to_measure(self) -> Iterator[Tensor]:
        """Yield pictures to measure batch norm statistics on: training pictures as they are."""
        chosen = torch.randperm(
            len(self.labels),
            generator=generator(self.recipe.seed, Purpose.statistics, self.progress.epoch),
        )[:MEASURED_PICTURES]
        # Equal parts: a single picture left over would count as much as a whole batch.
        for indices in chosen.tensor_split(-(-len(chosen) // MEASURED_BATCH)):
            pixels = self.pixels[indices.to(self.device)]
            yield self.trainer.normalise(pixels).contiguous(memory_format=torch.channels_last)

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started

    def _save(self) -> None:
        self.progress.elapsed = self._elapsed()
        write_text(self.folder / METRICS, "\n".join([METRICS_HEADER, *self.progress.rows]) + "\n")
        save_state(self.folder / STATE, self.trainer, self.progress)
        self.saved_at = time.perf_counter()

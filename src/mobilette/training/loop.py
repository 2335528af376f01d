"""Epochs, validation, snapshots and automatic recovery."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch

from mobilette.data.dataset import Dataset
from mobilette.data.loader import Batch, Loader
from mobilette.data.normalise import to_device
from mobilette.errors import InputError
from mobilette.run.directory import STATE
from mobilette.training.distributed import is_launched
from mobilette.training.events import Callbacks, Sitting, StepDone
from mobilette.training.process import StopRequest
from mobilette.training.recovery import (
    MOST_ROLLBACKS,
    SMALLER_RATE,
    DivergedError,
    Parts,
    check_losses,
)
from mobilette.training.sampling import Purpose, epoch_order, generator, images_per_step
from mobilette.training.state import LastState, Progress, apply_state, read_state
from mobilette.training.step import Trainer
from mobilette.training.time_plan import Pace
from mobilette.training.validation import Validator

SECONDS_BETWEEN_STATES = 30.0
# A GPU runs ahead of Python; reading a loss makes Python wait.
_STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 20, "mps": 20}


class Loop:
    """The epochs of one run, from wherever it stands to its end."""

    def __init__(
        self,
        trainer: Trainer,
        progress: Progress,
        dataset: Dataset,
        loader: Loader,
        *,
        folder: Path,
        validation: float,
        sitting: Sitting,
        callbacks: Callbacks,
    ) -> None:
        now, remark = sitting.now, sitting.reporter.remark
        self.trainer, self.progress, self.dataset = trainer, progress, dataset
        self.loader, self.folder = loader, folder
        self.report, self.remark, self.callbacks = sitting.report, remark, callbacks
        self.recipe, self.world = trainer.recipe, trainer.world
        train = dataset.splits["train"]
        self.labels = torch.from_numpy(train.labels).to(trainer.device)
        self.shards = train.shards
        self.batch = images_per_step(
            self.recipe.batch_size, len(train.labels), processes=self.world.size
        )
        self.steps = len(train.labels) // self.batch
        self.guessing = trainer.loss.of_guessing(len(dataset.classes))
        self.pace = Pace(
            self.recipe,
            steps=self.steps,
            started=sitting.started - progress.elapsed,
            validation=validation,
            now=now,
        )
        self.last_state = LastState(folder, multi_label=dataset.multi_label, now=now)
        self.pending_losses: list[torch.Tensor] = []  # not checked yet
        self.parts = Parts(
            trainer.optimizer, batch=self.batch, processes=self.world.size, remark=remark
        )
        self.validator = Validator(
            trainer,
            dataset,
            steps=self.steps,
            share=self.batch // self.world.size,
            pace=self.pace,
            parts=self.parts,
            last_state=self.last_state,
            report=sitting.report,
        )
        self.stop = StopRequest(patient=is_launched())

    def run(self) -> Progress:
        """Train to the end; Ctrl-C and callback exceptions save the state first."""
        # Every step seeds the global generator; the caller's state is restored afterwards.
        with torch.random.fork_rng(), self.stop:
            if self.progress.index == 0:
                if self.progress.validates_first:
                    self.validator.run(self.progress, 0.0)
                # The initial weights may come from a run that is gone when this one resumes.
                self._save(at_once=True)
            while not self.progress.finished:
                try:
                    self._epoch()
                except DivergedError as error:
                    self._roll_back(error)
        self.callbacks.raise_error()
        return self.progress

    def _epoch(self) -> None:
        progress = self.progress
        order = epoch_order(
            self.dataset.splits["train"].labels,
            sampling=self.recipe.sampling,
            shards=self.shards,
            generator=generator(self.recipe.seed, Purpose.order, progress.epoch),
        )
        self.trainer.begin_epoch(progress.epoch)
        share = self.batch // self.world.size
        first = self.world.rank * share
        rows = [
            order[step * self.batch + first : step * self.batch + first + share]
            for step in range(progress.step, self._last_step())
        ]
        part = self._synchronise()
        with closing(self.loader.batches(rows)) as batches:
            # However short the time: after one step, a run can be validated and exported.
            while progress.step < self._last_step() and (part < 1.0 or progress.index == 0):
                self._step(batches, part)
                part = self._synchronise()
        self._end_epoch(part)

    def _last_step(self) -> int:
        """Return the number of steps in the current epoch."""
        frozen = self.progress.epoch < self.recipe.frozen_epochs
        return self.progress.frozen_steps or self.steps if frozen else self.steps

    def _step(self, batches: Iterator[Batch], part: float) -> None:
        progress = self.progress
        begun = self.pace.now()
        self.trainer.clock.start()
        batch = next(batches)
        self.trainer.clock.lap("data")
        if self._is_enough(batch):
            self.pending_losses.append(self._train_on(batch, part))
        self.trainer.clock.count(len(batch.rows))
        progress.step += 1
        progress.index += 1
        progress.images += len(batch.rows) * self.world.size
        if len(self.pending_losses) >= _STEPS_BETWEEN_CHECKS.get(self.trainer.device.type, 1):
            self._check_losses()
        seconds = self.pace.now() - begun
        progress.training_seconds += seconds
        self.pace.step_took(seconds)
        self.report(
            StepDone(
                epoch=progress.epoch,
                epochs=None if self.recipe.time_limit else self.recipe.epochs,
                step=progress.step,
                steps=self.steps,
                images_per_second=progress.images / progress.training_seconds,
                loss=progress.loss_sum / max(progress.step - len(self.pending_losses), 1),
                part=part,
            )
        )

    def _is_enough(self, batch: Batch) -> bool:
        """Whether every process has the two images that batch norm needs; if not, none trains."""
        enough = len(batch.rows) > 1
        if self.world.size == 1 or self.dataset.store is None:
            return enough
        (without,) = self.world.all_reduce_max((float(not enough),))
        return not without

    def _train_on(self, batch: Batch, part: float) -> torch.Tensor:
        progress = self.progress

        def step() -> torch.Tensor:
            return self.trainer.step(
                batch.pixels,
                self.labels[to_device(batch.rows, self.labels.device)],
                index=progress.index,
                place=(progress.epoch, progress.step),
                progress=part,
                parts=progress.parts,
                rate_factor=progress.rate_factor,
            )

        return self.parts.work(step, progress, images=len(batch.rows))

    def _check_losses(self) -> None:
        """Check and sum the pending losses; `DivergedError` if one is not finite or exploded."""
        if not self.pending_losses:
            return
        losses = self.world.all_reduce_mean(torch.stack(self.pending_losses).float().cpu()).tolist()
        self.pending_losses.clear()
        check_losses(losses, guessing=self.guessing)
        self.progress.loss_sum += sum(losses)
        self.last_state.write()

    def _roll_back(self, error: DivergedError) -> None:
        """Go back to the last snapshot with a smaller rate; `InputError` after two rollbacks."""
        progress = self.progress
        place = f"at epoch {progress.epoch + 1}, step {progress.step}"
        if progress.rollbacks == MOST_ROLLBACKS:
            raise InputError(
                f"{self.folder}: {error} {place}, even at {progress.rate_factor:g} times the "
                f"learning rate; use a smaller --lr than {self.recipe.lr:g}"
            ) from error
        self.pending_losses.clear()
        self.last_state.drop()
        self.world.barrier()  # nobody reads the state while it is written
        state = read_state(self.folder / STATE)
        apply_state(state, self.trainer, where=self.folder / STATE)
        self.progress = state.progress
        self.progress.rollbacks = progress.rollbacks + 1
        self.progress.rate_factor = progress.rate_factor * SMALLER_RATE
        self.progress.parts = max(self.progress.parts, progress.parts)
        self.remark(
            f"{error} {place}: back to epoch {self.progress.epoch + 1}, step {self.progress.step}, "
            f"at {self.progress.rate_factor:g} times the learning rate"
        )
        self.world.barrier()
        self._save()

    def _end_epoch(self, part: float) -> None:
        self._check_losses()
        progress = self.progress
        # The time was up before the epoch began.
        if progress.step == 0 and self.validator.has_seen(progress):
            progress.finished = True
            self._save(at_once=True)
            return
        progress.epoch += 1
        progress.missing += self.steps - progress.step
        over = self.pace.is_over(progress, part)
        if over or self.validator.is_due(progress):
            self.validator.run(progress, part)
            over = over or 0 < self.recipe.patience <= progress.since_best
            if over and not self.pace.is_over(progress, part):
                self.remark(f"no better result in {progress.since_best} validations: stopped")
        progress.step, progress.loss_sum = 0, 0.0
        progress.finished = over
        self._save(at_once=over)

    def _synchronise(self) -> float:
        """Save or stop if any process has to; return the fraction of the run that is done.

        Processes see the time and signals at different moments, so they agree between two steps. A
        stop saves the state, then raises a callback's exception or KeyboardInterrupt.
        """
        done = self.pace.part_done(self.progress, longest_save=self.last_state.longest)
        stopped = self.stop.requested or self.callbacks.error is not None
        if self.recipe.save_every:
            is_due = self.progress.step > 0 and self.progress.index % self.recipe.save_every == 0
        else:
            is_due = self.pace.now() - self.last_state.taken_at > SECONDS_BETWEEN_STATES
        part, stop, due = self.world.all_reduce_max((done, float(stopped), float(is_due)))
        if stop or due:
            self._save(at_once=bool(stop))
        if stop:
            self.callbacks.raise_error()
            command = f"mobilette train --resume {shlex.quote(str(self.folder))}"
            raise KeyboardInterrupt(f"stopped; to continue: {command}")
        return part

    def _save(self, *, at_once: bool = False) -> None:
        """Take a snapshot, written ``at_once`` or when its weights have proved good."""
        self._check_losses()
        self.progress.elapsed = self.pace.elapsed()
        self.last_state.snapshot(self.trainer, self.progress)
        if at_once:
            self.last_state.write()

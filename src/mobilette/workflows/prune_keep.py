"""Pruning to a part of the mult-adds, in steps of cutting and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.compression.channel_scores import norm_scores
from mobilette.compression.pruning import prune_channels
from mobilette.counting.cost import cost
from mobilette.data.images import ImageSet
from mobilette.errors import InputError
from mobilette.folders import scratch
from mobilette.model.model import Model
from mobilette.progress import SILENT
from mobilette.run.directory import Run, is_run, open_run
from mobilette.training.environment import choose_device
from mobilette.training.events import Sitting
from mobilette.training.time_plan import TooShortError, timed_reading
from mobilette.workflows.prune_images import HeldImages
from mobilette.workflows.prune_record import (
    Importance,
    PruningStep,
    cut_step,
    tuned_step,
    write_pruning,
)
from mobilette.workflows.prune_request import PruneRequest
from mobilette.workflows.prune_time import PruningTime, measure_cut


def seconds_to_cut(model: Model, keep: float, sitting: Sitting) -> float:
    """Return the seconds of one cut by the weights alone; `InputError` if it cannot be made."""
    begun, _ = sitting.now(), model.network
    prune_channels(model, norm_scores(model), keep_madds=keep)
    return sitting.now() - begun


@dataclass(frozen=True, kw_only=True)
class ToPart:
    """Pruning to the part ``keep`` of the mult-adds.

    ``cutting`` is the seconds of a cut once channels are scored.
    """

    request: PruneRequest
    keep: float
    importance: Importance
    steps: int
    time: PruningTime
    cutting: float

    def into(self, folder: Path, found: ImageSet, *, force: bool) -> Run:
        """Cut and fine-tune in each step; write the last run to ``folder``."""
        done: list[PruningStep] = []
        asked = self.request
        current, now, reporter = asked.model, asked.sitting.now, asked.sitting.reporter
        reading = timed_reading(
            reporter.reading, limit=self.time.limit, elapsed=asked.sitting.elapsed
        )
        reader = replace(reporter, reading=reading)

        def record(step: PruningStep, run: Run, begun: float) -> None:
            done.append(tuned_step(step, run, now() - begun))
            if run.path == folder:
                write_pruning(
                    folder,
                    asked.model.arch,
                    source=teacher,
                    keep=self.keep,
                    importance=self.importance,
                    accuracy=accuracy,
                    trained_left_out=left_out,
                    includes_trained=includes,
                    steps=done,
                )

        with scratch() as temporary:
            for number in range(1, self.steps + 1):
                begun, last = now(), number == self.steps
                target = self.keep ** (number / self.steps)
                with HeldImages(
                    found,
                    current,
                    device=choose_device(asked.device),
                    reading=asked.reading,
                    reporter=reader,
                    before=asked.before,
                    now=now,
                ) as images:
                    if number == 1:
                        left_out, includes = len(images.dataset.moved), images.includes_trained
                        self._plan(images)
                        accuracy = images.accuracy(asked.model)
                        reader = replace(reader, remark=SILENT.remark)  # not said again
                    pruned = self._cut(current, images, target)
                    step = cut_step(pruned, keep=target, accuracy=images.accuracy(pruned))
                reporter.remark(
                    f"step {number} of {self.steps}: "
                    f"{step.madds / cost(asked.model.arch).madds:.1%} of the mult-adds, "
                    f"{step.params:,} parameters, accuracy {step.cut:.2%} after the cut "
                    f"(unpruned {accuracy:.2%})"
                )
                if number == 1:
                    teacher = asked.teacher(folder, force=force)
                where = folder if last else temporary / f"step{number}"
                try:
                    run = self._fine_tune(pruned, teacher, number, out=where, force=force and last)
                except InputError:
                    raise
                except BaseException:  # the interrupted last step is a run that can be resumed
                    if last and is_run(folder) and open_run(folder).arch == pruned.arch:
                        record(step, open_run(folder), begun)
                    raise
                record(step, run, begun)
                current = run.model
        return open_run(folder)

    def _plan(self, images: HeldImages) -> None:
        if self.time.limit:
            costs = measure_cut(
                images,
                self.request.model,
                importance=self.importance,
                cutting=self.cutting,
                now=self.request.sitting.now,
            )
            self.time.plan(costs)

    def _cut(self, model: Model, images: HeldImages, target: float) -> Model:
        """Return ``model`` cut to ``target`` of the unpruned mult-adds, batch norms measured."""
        whole = cost(self.request.model.arch).madds
        left = min(target * whole / cost(model.arch).madds, 1.0)
        scores = images.taylor(model) if self.importance == "taylor" else norm_scores(model)
        return images.measure_norms(prune_channels(model, scores, keep_madds=left))

    def _fine_tune(
        self, pruned: Model, teacher: Path, number: int, *, out: Path, force: bool
    ) -> Run:
        seconds = self.time.of_tuning(self.steps - number + 1) if self.time.limit else 0.0
        try:
            return self.request.fine_tune(pruned, teacher, seconds=seconds, out=out, force=force)
        except TooShortError as error:
            raise self.time.refused(error) from None

"""`prune`: a run and its images in, a run of a narrower network out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mobilette.arguments import checked
from mobilette.compression.channel_scores import norm_scores
from mobilette.compression.pruning import prune_channels
from mobilette.counting.cost import cost
from mobilette.data.images import ImageSet
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.folders import check_new, claimed, claimed_free, scratch
from mobilette.limits import PRUNED_PART, PRUNING_STEPS, SECONDS
from mobilette.model.directory import ARCH
from mobilette.model.model import Model, Origin
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run, check_apart, is_run, open_run
from mobilette.training.distributed import is_launched
from mobilette.training.environment import choose_device
from mobilette.training.events import Now, Report, Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.training.recipe import SLICED, Recipe, load_recipe, override
from mobilette.training.time_plan import TooShortError, timed_reading
from mobilette.workflows.prune_images import HeldImages, with_classes_of
from mobilette.workflows.prune_record import (
    Importance,
    PruningStep,
    cut_step,
    tuned_step,
    write_pruning,
)
from mobilette.workflows.prune_time import CutCosts, PruningTime, measure_cut
from mobilette.workflows.train import run_train


@checked
def prune(
    run: Run | str | Path,
    data: str | Path,
    *,
    keep: float,
    importance: Importance = "taylor",
    steps: int = 1,
    recipe: str | Path | Recipe | None = None,
    overrides: Mapping[str, object] | None = None,
    time_limit: float | None = None,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    report: Report | None = None,
    reporter: Reporter = SILENT,
    now: Now = time.perf_counter,
) -> Run:
    """Cut the least important channels of a run's network, fine-tune it, return the new run.

    Each step scores the channels on training images, cuts them
    (`mobilette.compression.prune_channels`), measures batch norms again and trains the network with
    the unpruned one as teacher. ``pruned.json`` in the new run records every step.

    Args:
        run: a trained or imported run, or its directory; it is not changed.
        data: images of its classes, as for `train`.
        keep: fraction of the mult-adds to keep, between 0 and 1.
        importance: ``taylor``, the first-order change of the loss, or ``norm``, from the weights
            alone.
        steps: how often to cut and fine-tune, by the same factor each time.
        recipe: for the fine-tuning after each step; by default ``sliced``.
        overrides: recipe keys to replace, such as ``{"epochs": 5}``, in each step.
        time_limit: seconds of wall-clock for all steps together, planned before the first cut:
            fine-tuning gets at least half, in equal parts. By default the recipe decides.
        out: the run directory; by default a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        report: called after every step and epoch of fine-tuning.
        reporter: receives the progress of reading, and remarks.
        now: the clock for ``time_limit``, in seconds.

    Raises:
        InputError: a value, the run, the images or the output directory cannot be used, the network
            cannot be cut so far, or the time is too short (`TooShortError`).
    """
    clock = PruningTime(time_limit, steps=steps, now=now, remark=reporter.remark)
    _check_values(keep, steps, time_limit, device)
    tuning = recipe if isinstance(recipe, Recipe) else load_recipe(recipe or SLICED)
    tuning = override(tuning, overrides or {})
    source = run if isinstance(run, Run) else open_run(run)
    if out is not None:
        check_new(Path(out), holds=ARCH, force=force)
        check_apart(Path(out), source.path, "which is pruned and teaches")
    sitting = Sitting(reporter=reporter, now=now)
    pruning = _Pruning(
        source=source,
        data=data,
        keep=keep,
        importance=importance,
        steps=steps,
        recipe=replace(tuning, teacher=tuning.teacher or str(source.path.resolve())),
        device=device,
        reading=Reading(workers=workers, max_unusable=max_unusable),
        sitting=sitting if report is None else replace(sitting, report=report),
        time=clock,
        cutting=_seconds_to_cut(source, keep, now),
    )
    return pruning.into(out, force=force)


def _check_values(keep: float, steps: int, time_limit: float | None, device: str) -> None:
    PRUNED_PART.check("keep", keep)
    PRUNING_STEPS.check("steps", steps)
    if time_limit is not None:
        SECONDS.check("time_limit", time_limit)
    if is_launched():
        raise InputError("pruning runs in one process; start it without torchrun")
    choose_device(device)


def _seconds_to_cut(source: Run, keep: float, now: Now) -> float:
    """Return the seconds of one cut by the weights alone.

    A network that cannot be cut so far, or has no classifier, is refused here, before reading.
    """
    begun, _ = now(), source.network
    prune_channels(source.model, norm_scores(source.model), keep_madds=keep)
    return now() - begun


@dataclass(frozen=True, kw_only=True)
class _Pruning:
    """A checked request; ``cutting`` is the seconds of a cut once channels are scored."""

    source: Run
    data: str | Path
    keep: float
    importance: Importance
    steps: int
    recipe: Recipe
    device: str
    reading: Reading
    sitting: Sitting
    time: PruningTime
    cutting: float

    def into(self, out: str | Path | None, *, force: bool) -> Run:
        remark = self.sitting.reporter.remark
        images = with_classes_of(self.source, find_images(self.data))
        for line in images.remarks:
            remark(line)
        with ExitStack() as claim:
            if out is None:
                free = Path("runs") / f"{self.source.path.resolve().name}-pruned"
                out = claim.enter_context(claimed_free(free))
            else:
                claim.enter_context(claimed(Path(out), remark=remark))
            return self._in_steps(images, Path(out), force=force)

    def _in_steps(self, found: ImageSet, folder: Path, *, force: bool) -> Run:
        """Cut and fine-tune in each step; write the last run to ``folder``."""
        done: list[PruningStep] = []
        accuracy, current, now = 0.0, self.source, self.time.now
        reporter, limit = self.sitting.reporter, self.time.limit
        reader = replace(
            reporter,
            reading=timed_reading(reporter.reading, limit=limit, elapsed=self.time.elapsed),
        )

        def record(step: PruningStep, run: Run, begun: float, *, final: bool) -> None:
            done.append(tuned_step(step, run, now() - begun))
            if final:
                write_pruning(
                    folder,
                    self.source,
                    keep=self.keep,
                    importance=self.importance,
                    accuracy=accuracy,
                    steps=done,
                )

        with scratch() as temporary:
            for number in range(1, self.steps + 1):
                begun, last = now(), number == self.steps
                target = self.keep ** (number / self.steps)
                if number == 2:  # remarks on reading are made once
                    reader = replace(reader, remark=SILENT.remark)
                with self._read(found, current, reader) as images:
                    if number == 1:
                        self.time.plan(partial(self._measure, images))
                        accuracy = images.accuracy(self.source.model)
                    pruned = self._cut(current.model, images, target)
                    step = cut_step(pruned, keep=target, accuracy=images.accuracy(pruned))
                reporter.remark(
                    f"step {number} of {self.steps}: "
                    f"{step.madds / cost(self.source.arch).madds:.1%} of the mult-adds, "
                    f"{step.params:,} parameters, accuracy {step.cut:.2%} after the cut "
                    f"(unpruned {accuracy:.2%})"
                )
                where = folder if last else temporary / f"step{number}"
                try:
                    current = self._fine_tune(pruned, number, out=where, force=force and last)
                except KeyboardInterrupt:  # the interrupted last step is a run that can be resumed
                    if last and is_run(folder) and open_run(folder).arch == pruned.arch:
                        record(step, open_run(folder), begun, final=True)
                    raise
                record(step, current, begun, final=last)
        return open_run(folder)

    def _read(self, found: ImageSet, run: Run, reporter: Reporter) -> HeldImages:
        return HeldImages(
            found,
            run,
            device=choose_device(self.device),
            reading=self.reading,
            reporter=reporter,
            now=self.time.now,
        )

    def _measure(self, images: HeldImages) -> CutCosts:
        return measure_cut(
            images,
            self.source.model,
            importance=self.importance,
            cutting=self.cutting,
            now=self.time.now,
        )

    def _cut(self, model: Model, images: HeldImages, target: float) -> Model:
        """Return ``model`` cut to ``target`` of the source's mult-adds, batch norms measured."""
        left = min(target * cost(self.source.arch).madds / cost(model.arch).madds, 1.0)
        scores = images.taylor(model) if self.importance == "taylor" else norm_scores(model)
        return images.measure_norms(prune_channels(model, scores, keep_madds=left))

    def _fine_tune(self, pruned: Model, number: int, *, out: Path, force: bool) -> Run:
        recipe, steps_left = self.recipe, self.steps - number + 1
        if self.time.limit:
            recipe = replace(recipe, time_limit=self.time.of_tuning(steps_left))
        origin = Origin(
            name=pruned.arch.name,
            form=pruned.origin.form,
            source=f"{self.source.path.resolve()}, pruned",
        )
        try:
            return run_train(
                self.data,
                NetworkChoice(),
                start=replace(pruned, origin=origin),
                recipe=recipe,
                overrides={},
                out=out,
                force=force,
                device=self.device,
                reading=self.reading,
                sitting=self.sitting,
            )
        except TooShortError as error:
            raise self.time.refused(error) from None

"""`prune`: a run and its images in, a run of a narrower network out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mobilette.arguments import checked
from mobilette.compression.channel_scores import norm_scores
from mobilette.compression.pruning import Pruned, prune_channels
from mobilette.counting.cost import cost
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError, one_of
from mobilette.folders import check_new, claimed, claimed_free, scratch
from mobilette.formats.batch_norm import measure_batch_norm
from mobilette.limits import PRUNED_PART, PRUNING_STEPS, SECONDS
from mobilette.model.directory import ARCH
from mobilette.model.model import Model
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
    cut_model,
    cut_step,
    tuned_step,
    write_pruning,
)
from mobilette.workflows.prune_time import CutCosts, PruningTime, measure_cut
from mobilette.workflows.train import run_train


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What `prune` was asked for, checked, and how to read, to measure and to train with it."""

    importance: Importance
    read: Callable[..., HeldImages]
    tune: Callable[..., Run]
    recipe: Recipe
    time: PruningTime
    measure: Callable[..., CutCosts]
    reporter: Reporter


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
    """Cut the least important channels of a run's network, and return the narrower run.

    In each step channels are scored on training images, cut (`prune_channels`), batch norms
    measured anew, and the network is trained with the unpruned one as teacher. ``pruned.json`` in
    the run tells what each step came to (`mobilette.workflows.prune_record`).

    Args:
        run: a trained or imported run; it is left alone.
        data: images of its classes, as for `mobilette.workflows.train.train`.
        keep: the part of the mult-adds that may be left, between 0 and 1.
        importance: ``taylor``, the change of the loss to first order, or ``norm``, told from the
            weights alone.
        steps: how often it is cut and fine-tuned, by the same factor each time.
        recipe: of the fine-tuning after each step; ``None`` means ``sliced``.
        overrides: keys of the recipe to replace, for example ``{"epochs": 5}``, of each step.
        time_limit: seconds of wall-clock that all steps together may take, planned before the first
            cut: fine-tuning has half of them at least, each step as much; ``None`` means that the
            recipe decides.
        out: the run directory; ``None`` makes a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: processes that decode images; ``None`` means one a core.
        max_unusable: the part of the images that may be unusable.
        report: called after every step and epoch of the fine-tuning.
        reporter: told how many images are read, and what happened.
        now: tells the time that ``time_limit`` is kept by, in seconds.

    Raises:
        InputError: a value, the run, the images or the output directory cannot be used, the
            network cannot become so small, or the time is too short (`TooShortError`).
    """
    clock = PruningTime(time_limit, steps=steps, now=now, remark=reporter.remark)
    _check_values(keep, importance, steps, time_limit)
    choose_device(device)
    tuning = recipe if isinstance(recipe, Recipe) else load_recipe(recipe or SLICED)
    tuning = override(tuning, overrides or {})
    source = run if isinstance(run, Run) else open_run(run)
    if out is not None:
        check_new(Path(out), holds=ARCH, force=force)
        check_apart(Path(out), source.path, "which is pruned and teaches")
    weights = source.network.state_dict()  # one without a classifier is refused
    # Told before images are read: how far a network can be cut is not a matter of scores.
    begun = now()
    prune_channels(source.arch, weights, norm_scores(source.arch, weights), keep_madds=keep)
    cutting = now() - begun
    images = with_classes_of(source, find_images(data))
    for line in images.remarks:
        reporter.remark(line)
    timed = timed_reading(reporter.reading, limit=clock.limit, elapsed=clock.elapsed)
    sitting = Sitting(reporter=reporter, now=now)
    if report is not None:
        sitting = replace(sitting, report=report)
    asked = _Request(
        importance=importance,
        read=partial(
            HeldImages,
            images,
            device=choose_device(device),
            reading=Reading(workers=workers, max_unusable=max_unusable),
            now=now,
        ),
        tune=partial(
            run_train,
            data,
            NetworkChoice(),
            overrides={},
            device=device,
            reading=Reading(workers=workers, max_unusable=max_unusable),
            sitting=sitting,
        ),
        recipe=replace(tuning, teacher=tuning.teacher or str(source.path.resolve())),
        time=clock,
        measure=partial(measure_cut, importance=importance, cutting=cutting, now=now),
        reporter=replace(reporter, reading=timed),
    )
    free = Path("runs") / f"{source.path.resolve().name}-pruned"
    with ExitStack() as claim:
        if out is None:
            out = claim.enter_context(claimed_free(free))
        else:
            claim.enter_context(claimed(Path(out), remark=reporter.remark))
        return _in_steps(source, asked, keep=keep, steps=steps, folder=Path(out), force=force)


def _in_steps(
    source: Run, asked: _Request, *, keep: float, steps: int, folder: Path, force: bool
) -> Run:
    """Cut and fine-tune ``steps`` times; the last run is written to ``folder``."""
    done: list[PruningStep] = []
    whole = cost(source.arch).madds
    accuracy = math.nan
    current = source
    now = asked.time.now

    def record() -> None:
        write_pruning(
            folder,
            source,
            keep=keep,
            importance=asked.importance,
            accuracy=accuracy,
            steps=done,
        )

    with scratch() as temporary:
        for number in range(1, steps + 1):
            begun = now()
            target = keep ** (number / steps)
            reporter = asked.reporter
            if number > 1:  # only the first reading is remarked on
                reporter = replace(reporter, remark=SILENT.remark)
            with asked.read(current, reporter=reporter) as images:
                if number == 1:
                    asked.time.plan(partial(asked.measure, images, source))
                    accuracy = images.accuracy(source.arch, source.model.weights)
                part = target * whole / cost(current.arch).madds
                pruned = _cut(current, images, asked.importance, min(part, 1.0))
                step = cut_step(pruned, keep=target, accuracy=images.accuracy)
            asked.reporter.remark(
                f"step {number} of {steps}: {step.madds / whole:.1%} of the mult-adds, "
                f"{step.params:,} parameters, accuracy {step.cut:.2%} after the cut "
                f"(unpruned {accuracy:.2%})"
            )
            last = number == steps
            where = folder if last else temporary / f"step{number}"
            start = cut_model(source, pruned)
            left = steps - number + 1
            try:
                current = _fine_tune(start, asked, out=where, force=force and last, steps_left=left)
            except KeyboardInterrupt:  # what the last step leaves is a run that can be finished
                if last and is_run(folder) and open_run(folder).arch == pruned.arch:
                    done.append(tuned_step(step, open_run(folder), now() - begun))
                    record()
                raise
            done.append(tuned_step(step, current, now() - begun))
    record()
    return open_run(folder)


def _cut(run: Run, images: HeldImages, importance: Importance, part: float) -> Pruned:
    """Return the run's network, cut and with batch norms measured anew."""
    weights = run.model.weights
    if importance == "taylor":
        scores = images.taylor(run.arch, weights)
    else:
        scores = norm_scores(run.arch, weights)
    pruned = prune_channels(run.arch, weights, scores, keep_madds=part)
    measured = measure_batch_norm(pruned.arch, pruned.weights, images.to_measure())
    return Pruned(arch=pruned.arch, weights=measured, kept=pruned.kept)


def _fine_tune(start: Model, asked: _Request, *, out: Path, force: bool, steps_left: int) -> Run:
    """Return the run that training makes of the cut one, ``start``."""
    recipe = asked.recipe
    if asked.time.limit:
        recipe = replace(recipe, time_limit=asked.time.of_tuning(steps_left))
    try:
        return asked.tune(start=start, recipe=recipe, out=out, force=force)
    except TooShortError as error:
        raise asked.time.refused(error) from None


def _check_values(keep: float, importance: str, steps: int, time_limit: float | None) -> None:
    PRUNED_PART.check("keep", keep)
    one_of(importance, ("taylor", "norm"), "importance")
    PRUNING_STEPS.check("steps", steps)
    if time_limit is not None:
        SECONDS.check("time_limit", time_limit)
    if is_launched():
        raise InputError("pruning runs in one process; start it without torchrun")

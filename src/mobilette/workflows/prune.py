"""`prune`: a model and images in, a run of a narrower network out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from mobilette.arguments import checked
from mobilette.compression.channel_scores import norm_scores
from mobilette.compression.pruning import prune_channels
from mobilette.counting.cost import cost
from mobilette.data.digests import Trained
from mobilette.data.images import ImageSet
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.exporters.export import open_trained_run
from mobilette.folders import check_new, claimed, claimed_free, scratch
from mobilette.limits import PRUNED_PART, PRUNING_STEPS
from mobilette.model.directory import ARCH
from mobilette.model.model import Model, Origin
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run, check_apart, is_run, open_run
from mobilette.run.subject import folder_name, resolve
from mobilette.run.trained import trained_on
from mobilette.training.distributed import is_launched
from mobilette.training.environment import choose_device
from mobilette.training.events import Listener, Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.training.recipe import SLICED, Recipe, load_recipe, merge_keys
from mobilette.training.time_plan import TooShortError, timed_reading
from mobilette.workflows.prune_images import HeldImages, with_classes_of
from mobilette.workflows.prune_record import (
    Importance,
    PruningStep,
    cut_step,
    tuned_step,
    write_pruning,
)
from mobilette.workflows.prune_time import PruningTime, measure_cut
from mobilette.workflows.train import run_train


@checked
def prune(
    run: Run | Model | str | Path,
    data: str | Path,
    *,
    keep: float,
    importance: Importance = "taylor",
    steps: int = 1,
    recipe: str | Path | Recipe | None = None,
    epochs: int | None = None,
    time: float | str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    overrides: Mapping[str, object] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    include_trained: bool = False,
    callbacks: Iterable[Listener] = (),
    reporter: Reporter = SILENT,
) -> Run:
    """Cut the least important channels of a network, fine-tune it and return the new run.

    Each step scores the channels on training images, cuts them
    (`mobilette.compression.prune_channels`), measures batch norms again and trains the network with
    the unpruned one as teacher. ``pruned.json`` in the new run records every step.

    Args:
        run: a trained or imported run, its directory, or a `Model`; it is not changed. A `Model`
            that no run holds is saved beside the new run, as ``NAME-teacher``.
        data: images of its classes, as for `mobilette.train`.
        keep: fraction of the mult-adds to keep, between 0 and 1.
        importance: ``taylor``, the first-order change of the loss, or ``norm``, from the weights
            alone.
        steps: how often to cut and fine-tune, by the same factor each time.
        recipe: for the fine-tuning after each step; by default ``sliced``.
        epochs: passes over the images in each step.
        time: wall-clock for all steps together: seconds, or text such as ``"10m"``. Fine-tuning
            gets at least half, in equal parts. By default the recipe decides.
        batch_size: images per step of fine-tuning.
        lr: peak learning rate of fine-tuning.
        seed: random seed of fine-tuning.
        overrides: other recipe keys to replace in each step.
        out: the run directory; by default a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        include_trained: whether images that ``run`` was trained on may be held out.
        callbacks: called with every event of fine-tuning, as for `mobilette.train`.
        reporter: receives the progress of reading, and remarks.

    Raises:
        InputError: a value, the model, the images or the output directory cannot be used, the
            network cannot be cut so far, or the time is too short (`TooShortError`).
    """
    return run_prune(
        run,
        data,
        keep=keep,
        importance=importance,
        steps=steps,
        recipe=load_recipe(
            recipe or SLICED,
            overrides=merge_keys(
                overrides, epochs=epochs, time=time, batch_size=batch_size, lr=lr, seed=seed
            ),
        ),
        limits_all=time is not None,
        out=out,
        force=force,
        device=device,
        reading=Reading(
            workers=workers, max_unusable=max_unusable, include_trained=include_trained
        ),
        sitting=Sitting(callbacks=tuple(callbacks), reporter=reporter),
    )


def run_prune(
    run: Run | Model | str | Path,
    data: str | Path,
    *,
    keep: float,
    importance: Importance = "taylor",
    steps: int = 1,
    recipe: Recipe,
    limits_all: bool,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    reading: Reading,
    sitting: Sitting,
) -> Run:
    """Do what `prune` does, with the listeners and clock of ``sitting``.

    ``limits_all``: the recipe's time limit is for all steps together, not for each.
    """
    sitting = sitting.begin()
    PRUNED_PART.check("keep", keep)
    PRUNING_STEPS.check("steps", steps)
    choose_device(device)
    if is_launched():
        raise InputError("pruning runs in one process; start it without torchrun")
    model, source = resolve(open_trained_run(run) if isinstance(run, str | PathLike) else run)
    if out is not None:
        check_new(Path(out), holds=ARCH, force=force)
        if source is None:
            check_new(_for_teacher(Path(out)), holds=ARCH, force=force)
        else:
            check_apart(Path(out), source.path, "which is pruned and teaches")
    pruning = _Pruning(
        model=model,
        source=source,
        data=data,
        keep=keep,
        importance=importance,
        steps=steps,
        recipe=recipe,
        device=device,
        reading=reading,
        sitting=sitting,
        time=PruningTime(recipe.time_limit if limits_all else 0.0, steps=steps, sitting=sitting),
        cutting=_seconds_to_cut(model, keep, sitting),
        before=trained_on(source or model),
    )
    remark = sitting.reporter.remark
    images = with_classes_of(model, find_images(data))
    for line in (*images.remarks, *pruning.before.remarks()):
        remark(line)
    with ExitStack() as claim:
        if out is None:
            free = Path("runs") / f"{folder_name(source or model)}-pruned"
            out = claim.enter_context(claimed_free(free))
        else:
            claim.enter_context(claimed(Path(out), remark=remark))
        return pruning.into(Path(out), images, force=force)


def _for_teacher(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-teacher")


def _seconds_to_cut(model: Model, keep: float, sitting: Sitting) -> float:
    """Return the seconds of one cut by the weights alone; `InputError` if it cannot be made."""
    begun, _ = sitting.now(), model.network
    prune_channels(model, norm_scores(model), keep_madds=keep)
    return sitting.now() - begun


@dataclass(frozen=True, kw_only=True)
class _Pruning:
    """A checked request.

    ``cutting`` is the seconds of a cut once channels are scored, ``before`` what the model was
    trained on.
    """

    model: Model
    source: Run | None
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
    before: Trained

    def into(self, folder: Path, found: ImageSet, *, force: bool) -> Run:
        """Cut and fine-tune in each step; write the last run to ``folder``."""
        done: list[PruningStep] = []
        current, now, reporter = self.model, self.sitting.now, self.sitting.reporter
        reading = timed_reading(
            reporter.reading, limit=self.time.limit, elapsed=self.sitting.elapsed
        )
        reader = replace(reporter, reading=reading)

        def record(step: PruningStep, run: Run, begun: float) -> None:
            done.append(tuned_step(step, run, now() - begun))
            if run.path == folder:
                write_pruning(
                    folder,
                    self.model.arch,
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
                    device=choose_device(self.device),
                    reading=self.reading,
                    reporter=reader,
                    before=self.before,
                    now=now,
                ) as images:
                    if number == 1:
                        left_out, includes = len(images.dataset.moved), images.includes_trained
                        self._plan(images)
                        accuracy = images.accuracy(self.model)
                        reader = replace(reader, remark=SILENT.remark)  # not said again
                    pruned = self._cut(current, images, target)
                    step = cut_step(pruned, keep=target, accuracy=images.accuracy(pruned))
                reporter.remark(
                    f"step {number} of {self.steps}: "
                    f"{step.madds / cost(self.model.arch).madds:.1%} of the mult-adds, "
                    f"{step.params:,} parameters, accuracy {step.cut:.2%} after the cut "
                    f"(unpruned {accuracy:.2%})"
                )
                if number == 1:
                    teacher = self._teacher(folder, force=force)
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

    def _teacher(self, folder: Path, *, force: bool) -> Path:
        """Return the run of the unpruned model, saved beside ``folder`` unless there is one."""
        if self.source is not None:
            return self.source.path.resolve()
        return self.model.save(_for_teacher(folder), force=force).resolve()

    def _plan(self, images: HeldImages) -> None:
        if self.time.limit:
            costs = measure_cut(
                images,
                self.model,
                importance=self.importance,
                cutting=self.cutting,
                now=self.sitting.now,
            )
            self.time.plan(costs)

    def _cut(self, model: Model, images: HeldImages, target: float) -> Model:
        """Return ``model`` cut to ``target`` of the unpruned mult-adds, batch norms measured."""
        left = min(target * cost(self.model.arch).madds / cost(model.arch).madds, 1.0)
        scores = images.taylor(model) if self.importance == "taylor" else norm_scores(model)
        return images.measure_norms(prune_channels(model, scores, keep_madds=left))

    def _fine_tune(
        self, pruned: Model, teacher: Path, number: int, *, out: Path, force: bool
    ) -> Run:
        recipe = replace(self.recipe, teacher=self.recipe.teacher or str(teacher))
        if self.time.limit:
            recipe = replace(recipe, time_limit=self.time.of_tuning(self.steps - number + 1))
        origin = Origin(name=pruned.arch.name, form=pruned.origin.form, source=f"{teacher}, pruned")
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
                before=self.before,
                sitting=self.sitting,
            )
        except TooShortError as error:
            raise self.time.refused(error) from None

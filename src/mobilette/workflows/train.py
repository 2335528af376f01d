"""`train`: images and the name of a model in, a run directory out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mobilette.arch.scale import Form, Resolution
from mobilette.arguments import checked
from mobilette.data.dataset import Dataset
from mobilette.data.digests import NEW, Trained
from mobilette.data.division import WHOLE, Division, as_holdout
from mobilette.data.findings import recorded_changes, without_accepted
from mobilette.data.images import ImageSet
from mobilette.data.preprocess import Resize
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.files import write_bytes
from mobilette.folders import check_new, claimed_free, new_directory
from mobilette.model.directory import ARCH, ORIGIN, described
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import (
    LAUNCH,
    MAX_UNUSABLE,
    STATE,
    Run,
    check_apart,
    is_run,
    open_run,
    recorded_path,
    write_run,
)
from mobilette.run.trained import describe_trained, trained_on
from mobilette.training.costs import plan_the_time
from mobilette.training.distributed import (
    claimed_by_writer,
    is_launched,
    joined,
    launch,
    own_device,
)
from mobilette.training.environment import (
    can_fuse_norms,
    choose_device,
    choose_precision,
    describe_environment,
)
from mobilette.training.events import Listener, Sitting
from mobilette.training.plan import NetworkChoice, Plan, make_plan
from mobilette.training.process import describe_allocator
from mobilette.training.recipe import Recipe, merge_keys
from mobilette.training.session import (
    Machine,
    check_machine,
    describe_machine,
    load_images,
    make_trainer,
    run_loop,
)
from mobilette.training.start import load_start
from mobilette.training.state import Progress, state_bytes
from mobilette.training.time_plan import timed_reading
from mobilette.workflows.measure_test import measure_test


@checked
def train(
    data: str | Path,
    *,
    model: str | None = None,
    width_mult: float | None = None,
    resolution: Resolution | None = None,
    form: Form | None = None,
    in_channels: int | None = None,
    preprocess: str | None = None,
    resize: Resize | None = None,
    recipe: str | Path | Recipe | None = None,
    epochs: int | None = None,
    time: float | str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    promise: str | None = None,
    overrides: Mapping[str, object] | None = None,
    start: str | Path | Model = "auto",
    without: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    holdout: float | str | None = None,
    groups: str | None = None,
    tensorboard: bool = False,
    profile: bool = False,
    callbacks: Iterable[Listener] = (),
    reporter: Reporter = SILENT,
) -> Run:
    """Train a network and return its run; `InputError` if a value or the images cannot be used.

    Args:
        data: a folder of images, a list, shards or a named set (docs/training.md).
        model: a name from `mobilette.list_models`; by default that of ``start``, or MobileNet V2.
        width_mult: the width multiplier; by default that of ``start``, or 1.0.
        resolution: a side or (height, width) in pixels; by default ``start``'s or the images'.
        form: ``small`` or ``full``; by default ``small`` up to a shorter side of 64 pixels.
        in_channels: 3, or 1 for grey; by default those of ``start``, or 3.
        preprocess: preset of mean and std; by default that of ``start``, or ``torch``.
        resize: ``crop``, ``squash`` or ``pad``; by default that of ``start``, or ``crop``.
        recipe: a name, a TOML file or a `Recipe`; by default as in docs/training.md.
        epochs: passes over the images.
        time: wall-clock to fit the schedule into: seconds, or text such as ``"90s"``, ``"10m"``.
        batch_size: images per step.
        lr: peak learning rate.
        seed: random seed.
        promise: ``error<=1%``, ``known>=95%`` or both (docs/promises.md); kept by `Run.answering`.
        overrides: other recipe keys to replace, for example ``{"mixup": 0.2}``.
        start: initial weights: ``auto``, ``scratch``, a `Model`, a run, a file or a published name.
        without: an ``audit.csv`` of `mobilette.audit`, filled in: what to leave out or relabel.
        out: the run directory; by default a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        holdout: part of the images, such as ``"20%"``, for a test at the end (docs/held_out.md).
        groups: what keeps images on one side: a list's column, ``folder``, or a regular expression.
        tensorboard: also write TensorBoard events into the run.
        profile: measure where the time of a step goes, sent as `Profiled` at the end.
        callbacks: called with every `mobilette.training.events`; an exception stops the run.
        reporter: receives the progress of reading and downloads, and remarks.
    """
    keys = merge_keys(overrides, epochs=epochs, time=time, seed=seed, promise=promise)
    return run_train(
        _audited(data, without, groups),
        NetworkChoice(model, width_mult, resolution, form, in_channels, preprocess, resize),
        start=start,
        recipe=recipe,
        overrides=merge_keys(keys, batch_size=batch_size, lr=lr),
        out=out,
        force=force,
        device=device,
        reading=Reading(workers=workers, max_unusable=max_unusable),
        division=Division(holdout=as_holdout(holdout), groups=groups),
        profile=profile,
        sitting=Sitting(callbacks=tuple(callbacks), reporter=reporter, tensorboard=tensorboard),
    )


def _audited(
    data: str | Path, without: str | Path | None, groups: str | None
) -> str | Path | ImageSet:
    if without is None:
        return data
    return without_accepted(find_images(data, groups=groups), Path(without))


def run_train(
    data: str | Path | ImageSet,
    choice: NetworkChoice,
    *,
    start: str | Path | Model = "auto",
    recipe: str | Path | Recipe | None = None,
    overrides: Mapping[str, object],
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    reading: Reading,
    before: Trained | None = None,
    division: Division = WHOLE,
    profile: bool = False,
    sitting: Sitting,
) -> Run:
    """Do what `train` does, with the listeners and clock of ``sitting``.

    ``before`` is what ``start`` was trained on, if it is of no run; ``division`` how the images are
    divided.
    """
    sitting = sitting.begin()
    where = own_device(choose_device(device))
    if is_launched() and out is None:
        raise InputError("several processes write one run: give it a name with --out")
    if out is not None:  # before anything is downloaded, and before one process waits for another
        check_new(Path(out), holds=ARCH, force=force)
    with ExitStack() as claims:
        if out is not None:
            claims.enter_context(claimed_by_writer(Path(out), sitting.reporter.remark))
        world = claims.enter_context(joined(where))
        sitting = sitting.seen_by(writer=world.writes)
        reporter = sitting.reporter
        images = data
        if not isinstance(images, ImageSet):
            images = find_images(images, groups=division.groups)
        for text in images.remarks:
            reporter.remark(text)
        plan = make_plan(
            images, choice, recipe=recipe, overrides=overrides, start=start, reporter=reporter
        )
        if out is not None and plan.recipe.teacher and is_run(Path(plan.recipe.teacher)):
            check_apart(Path(out), Path(plan.recipe.teacher), "which teaches")
        machine = Machine(
            device=where,
            precision=choose_precision(plan.recipe.precision, where),
            fused_norms=can_fuse_norms(where, world=world) and plan.recipe.compile != "always",
            world=world,
        )
        check_machine(machine, plan.recipe)
        if before is None:
            before = trained_on(plan.start) if plan.start is not None else NEW
        used = NEW if reading.include_trained else before
        dataset = _load(images, plan, machine, used, division, reading=reading, sitting=sitting)
        if out is None:
            name = f"{Path(images.name).resolve().name}-{plan.arch.name}"
            out = claims.enter_context(claimed_free(Path("runs") / name))
        folder = Path(out)
        run = Run(path=folder, arch=plan.arch, preprocess=plan.preprocess, classes=plan.classes)
        trainer = make_trainer(run, plan.recipe, dataset, machine, sitting=sitting, profile=profile)
        if plan.start is not None:
            load_start(plan.start, trainer, dataset, keep_classifier=plan.keeps_classifier)
        progress = Progress(
            trained_before=plan.start is not None and plan.keeps_classifier and not plan.is_cut
        )
        sitting = sitting.set_up()
        validation = plan_the_time(trainer, progress, dataset, sitting=sitting)
        if world.writes:
            source = Path(images.name) if isinstance(data, ImageSet) else data
            found = {"path": recorded_path(source), MAX_UNUSABLE: reading.max_unusable}
            with new_directory(folder, force=force, holds=ARCH, source=Path(source)) as unfinished:
                described = describe_trained(dataset, before) | found | recorded_changes(images)
                _write_new_run(unfinished, plan, described, machine)
                # In one step: a run killed right here has its initial weights.
                write_bytes(unfinished / STATE, state_bytes(trainer, progress))
        world.barrier()
        reporter.remark(_describe_run(folder, plan, dataset))
        reporter.remark(describe_machine(machine))
        run = open_run(folder)
        run_loop(run, trainer, progress, dataset, validation=validation, sitting=sitting)
        measure_test(run, dataset, machine)
    return open_run(folder)


def _load(
    images: ImageSet,
    plan: Plan,
    machine: Machine,
    before: Trained,
    division: Division,
    *,
    reading: Reading,
    sitting: Sitting,
) -> Dataset:
    """Read the images, of which ``before`` were used to train the initial weights."""
    reporter = sitting.reporter
    limit = 0.0 if sitting.setup_is_free else plan.recipe.time_limit
    timed = timed_reading(reporter.reading, limit=limit, elapsed=sitting.elapsed)
    return load_images(
        images,
        resolution=plan.arch.resolution,
        preprocess=plan.preprocess,
        loader=plan.recipe.loader,
        machine=machine,
        reading=reading,
        reporter=replace(reporter, reading=timed),
        division=division,
        known=before.for_another(),
        seen=before.images,
    )


def _write_new_run(
    folder: Path, plan: Plan, dataset: Mapping[str, object], machine: Machine
) -> None:
    environment = describe_environment(
        machine.device, machine.precision, fused_norms=machine.fused_norms
    )
    write_run(
        folder,
        arch=plan.arch,
        preprocess=plan.preprocess,
        classes=plan.classes,
        recipe=plan.recipe.to_toml(),
        dataset=dict(dataset),
        environment=environment
        | {
            ORIGIN: described(plan.origin),
            "start": plan.start.origin.source if plan.start else "scratch",
            "processes": machine.world.size,
            "allocator": describe_allocator(),
            LAUNCH: launch(),
        },
    )


def _describe_run(folder: Path, plan: Plan, dataset: Dataset) -> str:
    counts = {split: len(part.labels) for split, part in dataset.splits.items()}
    left_out = f", {len(dataset.unusable)} left out (dataset.json says why)"
    test = f" and {counts['test']:,} for a test at the end" if "test" in counts else ""
    return (
        f"{folder}: {plan.arch.name} at {'x'.join(map(str, plan.arch.size))}, "
        f"{len(dataset.classes)} classes, {counts['train']:,} images to train on, "
        f"{counts['val']:,} held out{test}{left_out if dataset.unusable else ''}; "
        f"starts from {plan.start.origin.source if plan.start else 'scratch'}"
        f"{', cut to this width' if plan.is_cut else ''}"
    )

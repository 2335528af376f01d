"""`train`: images and a model's name in, a run directory out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mobilette.arch.arch import Arch
from mobilette.arch.scale import Form
from mobilette.arguments import checked
from mobilette.data.cache import images_cache
from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.images import ImageSet
from mobilette.data.preprocess import Resize
from mobilette.data.reading import Reading
from mobilette.data.sources import NAMED, find_images
from mobilette.errors import InputError
from mobilette.files import write_bytes
from mobilette.folders import check_new, claimed_free, new_directory
from mobilette.formats.fitting import is_as_wide
from mobilette.model.class_matching import select_classes
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import ARCH, ORIGIN, described
from mobilette.model.model import Model
from mobilette.progress import SILENT, Remark, Reporter
from mobilette.run.directory import (
    LAUNCH,
    MAX_UNUSABLE,
    STATE,
    Run,
    check_apart,
    is_run,
    open_run,
    write_run,
)
from mobilette.training.distributed import (
    World,
    claimed_by_writer,
    is_launched,
    joined,
    launch,
    own_device,
    processes_here,
)
from mobilette.training.environment import (
    can_fuse_norms,
    choose_device,
    choose_precision,
    describe_environment,
    free_device_memory,
)
from mobilette.training.events import Now, Report, Stopwatch
from mobilette.training.plan import make_plan
from mobilette.training.recipe import Recipe
from mobilette.training.session import load_in_turn, make_trainer, plan_the_time, run_loop
from mobilette.training.start import load_start
from mobilette.training.state import Progress, state_bytes
from mobilette.training.time_plan import timed_reading


@checked
def train(
    data: str | Path,
    *,
    model: str | None = None,
    width_mult: float | None = None,
    resolution: int | None = None,
    form: Form | None = None,
    in_channels: int | None = None,
    preprocess: str | None = None,
    resize: Resize | None = None,
    recipe: str | Path | Recipe | None = None,
    overrides: Mapping[str, object] | None = None,
    start: str | Path | Model = "auto",
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    tensorboard: bool = False,
    profile: bool = False,
    allocator: str = "default",
    report: Report | None = None,
    reporter: Reporter = SILENT,
    now: Now = time.perf_counter,
) -> Run:
    """Train a network and return its run directory.

    Args:
        data: a folder of images or a named set (`mobilette.data.sources.find_images`).
        model: a name of `mobilette.list_models`; ``None`` means the network of ``start``, or
            MobileNet V2.
        width_mult: the width multiplier; ``None`` means that of ``start``, or 1.0.
        resolution: in pixels; ``None`` means that of the run ``start``, or suits the images.
        form: ``small`` or ``full``; ``None`` goes by the resolution (`Settings`).
        in_channels: 3, or 1 for grey; ``None`` means those of ``start``, or 3.
        preprocess: the preset of mean, std and colour order; ``None`` means what the initial
            weights were trained with, or ``torch``.
        resize: how an image becomes square: ``crop``, ``squash`` or ``pad``; ``None`` likewise, or
            ``crop``.
        recipe: a name, a TOML file or a `Recipe`; ``None`` means ``quick`` from scratch,
            ``transfer`` from initial weights, ``sliced`` where these are cut to a narrower network.
        overrides: keys of the recipe to replace, for example ``{"epochs": 5}``.
        start: initial weights: ``scratch``; a model or a run, whose network may be wider than the
            one to train and whose classifier is taken over where the classes are the same;
            published weights by name (`mobilette.formats.published`); or ``auto``: the best
            published ones if they can be had, none for ``digits`` and the small form.
        out: the run directory; ``None`` makes a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: processes that decode images; ``None`` means one a core.
        max_unusable: the part of the images that may be unusable.
        tensorboard: write events for TensorBoard into the run, too.
        profile: measure where the time of a step goes, and report it at the end.
        allocator: what the process does with freed memory, to be recorded.
        report: called after every step and epoch.
        reporter: told how many images are read, how many bytes of weights are downloaded, which
            choices were made and what happened.
        now: tells the time that the recipe's ``time_limit`` is kept by, in seconds.

    Raises:
        InputError: a value, the images or the output directory cannot be used, or the time is too
            short (`TooShortError`). Nothing is left behind then, unless training had begun: the run
            directory can then be resumed.
    """
    started = now()
    where = own_device(choose_device(device))
    if is_launched() and out is None:
        raise InputError("several processes write one run: give it a name with --out")
    if out is not None:  # before anything is downloaded, and before one process waits for another
        check_new(Path(out), holds=ARCH, force=force)
    with ExitStack() as claims:
        if out is not None:
            claims.enter_context(claimed_by_writer(Path(out), reporter.remark))
        world = claims.enter_context(joined(where))
        report = report if report and world.writes else _silent
        reporter = reporter if world.writes else SILENT
        remark = reporter.remark

        images = find_images(data)
        for text in images.remarks:
            remark(text)
        plan = make_plan(
            images,
            model=model,
            width_mult=width_mult,
            resolution=resolution,
            form=form,
            in_channels=in_channels,
            preprocess=preprocess,
            resize=resize,
            recipe=recipe,
            overrides=overrides,
            start=start,
            report=reporter.download,
            remark=remark,
        )
        source, classes = _with_known_classes(plan.start, images, remark)
        arch = plan.arch
        teacher = plan.recipe.teacher
        if out is not None and teacher and is_run(Path(teacher)):
            check_apart(Path(out), Path(teacher), "which teaches")
        precision = choose_precision(plan.recipe.precision, where)
        fused_norms = can_fuse_norms(where, world=world) and plan.recipe.compile != "always"
        load = partial(
            load_dataset,
            images,
            resolution=arch.resolution,
            preprocess=plan.preprocess,
            reading=Reading(workers=workers, max_unusable=max_unusable, cache=images_cache(remark)),
            reporter=replace(
                reporter,
                reading=timed_reading(
                    reporter.reading,
                    limit=plan.recipe.time_limit,
                    elapsed=lambda: now() - started,
                ),
            ),
            device_memory=free_device_memory(where),
            processes=processes_here(),
        )
        dataset = load_in_turn(lambda loader: load(loader=loader), plan.recipe.loader, world=world)
        if out is None:
            name = f"{Path(images.name).resolve().name}-{arch.name}"
            out = claims.enter_context(claimed_free(Path("runs") / name))
        folder = Path(out)
        run = Run(path=folder, arch=arch, preprocess=plan.preprocess, classes=classes)
        trainer = make_trainer(
            run,
            plan.recipe,
            dataset,
            device=where,
            precision=precision,
            fused_norms=fused_norms,
            world=world,
            clock=Stopwatch(where, now=now) if profile else None,
            report_download=reporter.download,
            remark=remark,
        )
        progress = Progress()
        if source is not None:
            known = source is not plan.start
            load_start(source, trainer, dataset, keep_classifier=known)
            progress.trained_before = known and is_as_wide(source.arch, arch)
        validation = plan_the_time(
            trainer, progress, dataset, started=started, now=now, remark=remark
        )
        if world.writes:
            with new_directory(folder, force=force, holds=ARCH, source=Path(data)) as unfinished:
                write_run(
                    unfinished,
                    arch=arch,
                    preprocess=plan.preprocess,
                    classes=classes,
                    recipe=plan.recipe.to_toml(),
                    dataset=dataset.describe()
                    | {"path": _absolute(data), MAX_UNUSABLE: max_unusable},
                    environment=describe_environment(where, precision, fused_norms=fused_norms)
                    | {ORIGIN: described(plan.origin)}
                    | {"start": "scratch" if source is None else source.origin.source}
                    | {"processes": world.size, "allocator": allocator, LAUNCH: launch()},
                )
                # Together: killed right here, the run still has the weights that it starts from.
                write_bytes(unfinished / STATE, state_bytes(trainer, progress))
        world.barrier()
        remark(_choices(arch, dataset, source, folder))
        remark(_machine(where, precision, world, allocator, fused_norms=fused_norms))
        run = open_run(folder)
        run_loop(
            run,
            trainer,
            progress,
            dataset,
            started=started,
            validation=validation,
            now=now,
            tensorboard=tensorboard,
            report=report,
            remark=remark,
        )
    return run


def _silent(event: object) -> None:
    pass


def _with_known_classes(
    source: Model | None, images: ImageSet, remark: Remark
) -> tuple[Model | None, tuple[ClassLabel, ...]]:
    """Return the weights, other ones if they have a classifier for these classes; the classes."""
    classes = tuple(ClassLabel(id=name, name=name) for name in images.classes)
    if source is None or source.multi_label != images.multi_label:
        return source, classes
    known = select_classes(source, images.classes)
    if known is None:
        return source, classes
    remark("the initial weights know these classes: they start with their classifier")
    return known, known.classes


def _choices(arch: Arch, dataset: Dataset, source: Model | None, folder: Path) -> str:
    counts = {split: len(part.labels) for split, part in dataset.splits.items()}
    cut = ", cut to this width" if source and not is_as_wide(source.arch, arch) else ""
    left_out = f", {len(dataset.unusable)} left out (dataset.json says why)"
    return (
        f"{folder}: {arch.name} at {arch.resolution}x{arch.resolution}, "
        f"{len(dataset.classes)} classes, {counts['train']:,} images to train on, "
        f"{counts['val']:,} held out{left_out if dataset.unusable else ''}; "
        f"starts from {source.origin.source if source else 'scratch'}{cut}"
    )


def _machine(
    device: torch.device, precision: str, world: World, allocator: str, *, fused_norms: bool
) -> str:
    processes = f"{world.size} processes, " if world.size > 1 else ""
    memory = ", freed memory is kept" if allocator == "keeps memory" else ""
    norms = ", fused batch norms" if fused_norms else ""
    return f"{processes}{device}, {torch.get_num_threads()} threads, {precision}{norms}{memory}"


def _absolute(data: str | Path) -> str:
    """Return the data as a later sitting, started elsewhere, will find it again."""
    named = str(data) in NAMED and not (isinstance(data, Path) and data.exists())
    return str(data) if named else str(Path(data).resolve())

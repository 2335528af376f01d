"""`train` and `resume`: pictures and a model's name in, a run directory out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path

import torch

from mobilette.arch.arch import Arch
from mobilette.arch.scale import Form
from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import Resize
from mobilette.data.reading import LoadReport
from mobilette.data.sources import NAMED, find_pictures
from mobilette.errors import InputError
from mobilette.files import check_new, new_directory, read_json
from mobilette.nn.network import Network
from mobilette.run.classes import ClassLabel
from mobilette.run.directory import (
    ARCH,
    DATASET,
    ENVIRONMENT,
    RECIPE,
    STATE,
    Run,
    is_imported,
    is_run,
    open_run,
    recorded_data,
    write_run,
)
from mobilette.training.ema import WeightAverage
from mobilette.training.environment import (
    Precision,
    choose_device,
    choose_precision,
    describe_environment,
)
from mobilette.training.loop import Loop, Report
from mobilette.training.optimiser import build_optimizer
from mobilette.training.plan import make_plan
from mobilette.training.process import usable_cores
from mobilette.training.randomness import Purpose, derive
from mobilette.training.recipe import Recipe, load_recipe
from mobilette.training.start import (
    Remark,
    Start,
    load_start,
)
from mobilette.training.state import Progress, apply_state, read_state
from mobilette.training.step import Trainer
from mobilette.weights.fitting import is_as_wide


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
    start: str | Path = "auto",
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    workers: int | None = None,
    max_unusable: float = 0.1,
    report: Report | None = None,
    report_load: LoadReport | None = None,
    report_download: LoadReport | None = None,
    remark: Remark | None = None,
) -> Run:
    """Train a network and return its run directory.

    Args:
        data: a folder of pictures or a named set (`mobilette.data.sources.find_pictures`).
        model: a name of `mobilette.list_models`; ``None`` means the network of ``start``, or
            MobileNet V2.
        width_mult: the width multiplier; ``None`` means that of ``start``, or 1.0.
        resolution: in pixels; ``None`` means that of the run ``start``, or suits the pictures.
        form: ``small`` or ``full``; ``None`` goes by the resolution (`Settings`).
        in_channels: 3, or 1 for grey; ``None`` means those of ``start``, or 3.
        preprocess: the preset of mean, std and colour order; ``None`` means what the initial
            weights were trained with, or ``torch``.
        resize: how a picture becomes square: ``crop``, ``squash`` or ``pad``; ``None`` likewise, or
            ``crop``.
        recipe: a name, a TOML file or a `Recipe`; ``None`` means ``quick`` from scratch,
            ``transfer`` from initial weights, ``sliced`` where these are cut to a narrower network.
        overrides: keys of the recipe to replace, for example ``{"epochs": 5}``.
        start: initial weights: ``scratch``; a run, whose network may be wider than the one to
            train and whose classifier is taken over where the classes are the same; published
            weights by name (`mobilette.weights.published`); or ``auto``: the best published ones
            if they can be had, none for ``digits`` and the small form.
        out: the run directory; ``None`` makes a new one under ``runs/``.
        force: replace ``out`` if it exists.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: processes that decode pictures; ``None`` means one a core.
        max_unusable: the part of the pictures that may be unusable.
        report: called after every step and epoch.
        report_load: called with (pictures read, pictures in all).
        report_download: called with (bytes there, bytes in all) of weights that are downloaded.
        remark: called with a line for the user about a choice that was made.

    Raises:
        InputError: a value, the pictures or the output directory cannot be used. Nothing is left
            behind then, unless training had begun: the run directory can then be resumed.
    """
    started = time.perf_counter()
    remark = remark or _silent
    where = choose_device(device)
    if out is not None:  # before anything is downloaded
        check_new(Path(out), holds=ARCH, force=force)
    pictures = find_pictures(data)
    plan = make_plan(
        pictures,
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
        report=report_download,
        remark=remark,
    )
    source, arch = plan.start, plan.arch
    precision = choose_precision(plan.recipe.precision, where)
    known = source.labels_of(pictures.classes) if source else None
    classes = known or tuple(ClassLabel(id=name, name=name) for name in pictures.classes)
    folder = Path(out) if out is not None else _free_name(pictures.name, arch.name)
    with new_directory(folder, force=force, holds=ARCH, source=Path(data)) as unfinished:
        dataset = load_dataset(
            pictures,
            resolution=arch.resolution,
            preprocess=plan.preprocess,
            workers=usable_cores() if workers is None else workers,
            max_unusable=max_unusable,
            on_progress=report_load,
        )
        write_run(
            unfinished,
            arch=arch,
            preprocess=plan.preprocess,
            classes=classes,
            recipe=plan.recipe.to_toml(),
            dataset=dataset.describe() | {"path": _absolute(data)},
            environment=describe_environment(where, precision)
            | {"start": "scratch" if source is None else source.name},
        )
    remark(_choices(arch, dataset, source, folder))
    run = open_run(folder)
    trainer = _trainer(run, plan.recipe, dataset, where, precision)
    if source is not None:
        load_start(source, trainer, dataset, keep_classifier=known is not None)
    return _loop(run, trainer, Progress(), dataset, where, started, report)


def resume(
    path: str | Path,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    workers: int | None = None,
    report: Report | None = None,
    report_load: LoadReport | None = None,
) -> Run:
    """Finish a run that was stopped; on the same machine and threads, to the same bits.

    A finished run is returned as it is.

    Args:
        path: the run directory.
        data: the pictures, where they are no longer at the place that the run recorded.
        device: ``None`` means the one that the run was started on.
        workers: as for `train`.
        report: as for `train`.
        report_load: as for `train`.

    Raises:
        InputError: the directory is no run, its state is damaged, or the pictures have changed.
    """
    started = time.perf_counter()
    run = open_run(path)
    if is_imported(run.path):
        raise InputError(
            f"{run.path}: was imported, not trained: nothing to resume ('mobilette train DATA "
            f"--from {run.path}' trains it further)"
        )
    recipe = load_recipe(run.path / RECIPE)
    where = choose_device(device or str(_recorded(run.path).get("device", "auto")))
    state = read_state(run.path / STATE) if (run.path / STATE).exists() else None
    if state is not None and state.progress.finished:
        return run
    source = data or recorded_data(run.path)
    dataset = load_dataset(
        find_pictures(source),
        resolution=run.arch.resolution,
        preprocess=run.preprocess,
        workers=usable_cores() if workers is None else workers,
        max_unusable=1.0,
        on_progress=report_load,
    )
    recorded = read_json(run.path / DATASET)
    if not isinstance(recorded, dict) or dataset.fingerprint != recorded.get("fingerprint"):
        raise InputError(
            f"{source}: the pictures are not those that {run.path} was started with; "
            "start a new run"
        )
    precision: Precision = "bf16" if _recorded(run.path).get("precision") == "bf16" else "fp32"
    trainer = _trainer(run, recipe, dataset, where, precision)
    progress = Progress()
    if state is not None:
        apply_state(state, trainer, where=run.path / STATE)
        progress = state.progress
    return _loop(run, trainer, progress, dataset, where, started, report)


def recorded_threads(path: str | Path) -> int | None:
    """Return the number of threads that the run in ``path`` was started with, if it tells."""
    threads = _recorded(Path(path)).get("threads") if is_run(Path(path)) else None
    return threads if isinstance(threads, int) and threads > 0 else None


def _recorded(path: Path) -> dict[str, object]:
    environment = read_json(path / ENVIRONMENT)
    return environment if isinstance(environment, dict) else {}


def _trainer(
    run: Run, recipe: Recipe, dataset: Dataset, device: torch.device, precision: Precision
) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(derive(recipe.seed, Purpose.weights))
        network = Network(run.arch)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trainer(
        network=network,
        average=WeightAverage(network, decay=recipe.ema_decay),
        optimizer=build_optimizer(network, recipe),
        normalise=Normalise(run.preprocess).to(device),
        recipe=recipe,
        precision=precision,
        flip=recipe.flip and dataset.flippable,
    )


def _loop(
    run: Run,
    trainer: Trainer,
    progress: Progress,
    dataset: Dataset,
    device: torch.device,
    started: float,
    report: Report | None,
) -> Run:
    progress.training_seconds += time.perf_counter() - started  # reading the pictures counts
    loop = Loop(
        trainer,
        progress,
        dataset,
        folder=run.path,
        device=device,
        started=started,
        report=report or _silent,
    )
    loop.run()
    return run


def _silent(event: object) -> None:
    pass


def _choices(arch: Arch, dataset: Dataset, source: Start | None, folder: Path) -> str:
    counts = {split: len(part.labels) for split, part in dataset.splits.items()}
    cut = ", cut to this width" if source and not is_as_wide(source.arch, arch) else ""
    left_out = f", {len(dataset.unusable)} left out (dataset.json says why)"
    return (
        f"{folder}: {arch.name} at {arch.resolution}x{arch.resolution}, "
        f"{len(dataset.classes)} classes, {counts['train']:,} pictures to train on, "
        f"{counts['val']:,} held out{left_out if dataset.unusable else ''}; "
        f"starts from {source.name if source else 'scratch'}{cut}"
    )


def _free_name(data: str, model: str) -> Path:
    """Return ``runs/DATA-MODEL``, numbered if there are such runs already."""
    base = Path("runs") / f"{Path(data).resolve().name}-{model}"
    numbered = (base.with_name(f"{base.name}-{number}") for number in count(2))
    return next(path for path in chain([base], numbered) if not path.exists())


def _absolute(data: str | Path) -> str:
    """Return the data as a later sitting, started elsewhere, will find it again."""
    named = str(data) in NAMED and not (isinstance(data, Path) and data.exists())
    return str(data) if named else str(Path(data).resolve())

"""`resume`: finishes a run that was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from mobilette.arguments import checked
from mobilette.data.dataset import Dataset
from mobilette.data.division import Division
from mobilette.data.findings import changed_as_recorded, recorded_changes
from mobilette.data.images import Digest
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.extras import version_or_unknown
from mobilette.files import read_json, write_json, write_text
from mobilette.limits import FRACTION, THREADS
from mobilette.model.directory import DATASET, ENVIRONMENT, is_imported
from mobilette.nn.kernels import kernels_name, why_no_kernels
from mobilette.progress import SILENT, Remark, Reporter
from mobilette.records import parse
from mobilette.run.directory import (
    LAUNCH,
    MAX_UNUSABLE,
    RECIPE,
    STATE,
    Run,
    is_run,
    open_run,
    recorded_data,
)
from mobilette.run.tested import lacks_test
from mobilette.run.trained import describe_trained, read_moved, read_trained
from mobilette.training.costs import plan_the_time
from mobilette.training.distributed import World, claimed_by_writer, joined, launch, own_device
from mobilette.training.environment import Precision, can_fuse_norms, choose_device
from mobilette.training.events import Listener, Sitting
from mobilette.training.recipe import Recipe, load_recipe, merge_keys
from mobilette.training.sampling import images_per_step
from mobilette.training.session import Machine, check_machine, load_images, make_trainer, run_loop
from mobilette.training.state import Progress, State, apply_state, read_state
from mobilette.workflows.measure_test import measure_test


@checked
def resume(
    path: str | Path,
    *,
    data: str | Path | None = None,
    epochs: int | None = None,
    time: float | str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    overrides: Mapping[str, object] | None = None,
    force: bool = False,
    device: str | None = None,
    workers: int | None = None,
    tensorboard: bool = False,
    callbacks: Iterable[Listener] = (),
    reporter: Reporter = SILENT,
) -> Run:
    """Finish a run that was stopped; bit-exact on the same machine with the same threads.

    A finished run is returned as it is. The rest of a time limit is planned anew.

    Args:
        path: the run directory.
        data: the images, if they are no longer in the recorded place.
        epochs: passes over the images, if they change, like ``time``, ``batch_size`` and ``lr``.
        time: wall-clock of the whole run: seconds, or text such as ``"10m"``.
        batch_size: images per step.
        lr: peak learning rate.
        overrides: other recipe keys to replace.
        force: continue even if the recipe or the images have changed.
        device: by default the one that the run was started on.
        workers: decoding processes; by default one per core.
        tensorboard: also write TensorBoard events into the run.
        callbacks: as for `mobilette.train`.
        reporter: receives the progress of reading, and remarks.

    Raises:
        InputError: the directory is not a run, its state is damaged, the classes have changed, or
            the images or the recipe have and ``force`` is false.
    """
    return run_resume(
        path,
        data=data,
        overrides=merge_keys(overrides, epochs=epochs, time=time, batch_size=batch_size, lr=lr),
        force=force,
        device=device,
        workers=workers,
        sitting=Sitting(callbacks=tuple(callbacks), reporter=reporter, tensorboard=tensorboard),
    )


def run_resume(
    path: str | Path,
    *,
    data: str | Path | None = None,
    overrides: Mapping[str, object],
    force: bool = False,
    device: str | None = None,
    workers: int | None = None,
    sitting: Sitting,
) -> Run:
    """Do what `resume` does, with the listeners and clock of ``sitting``."""
    sitting = sitting.begin()
    run = open_run(path)
    if is_imported(run.path):
        raise InputError(
            f"{run.path}: was imported, not trained, so there is nothing to resume; "
            f"'mobilette train DATA --from {run.path}' trains it further"
        )
    recipe = load_recipe(run.path / RECIPE, overrides=overrides)
    recorded = _recorded(run.path)
    where = own_device(choose_device(device or str(recorded.get("device", "auto"))))
    with claimed_by_writer(run.path, sitting.reporter.remark), joined(where) as world:
        state = read_state(run.path / STATE) if (run.path / STATE).exists() else None
        changes = _recipe_changes(run, recipe, state, force=force)
        progress = state.progress if state is not None else Progress()
        longer = recipe.time_limit > progress.elapsed or progress.epoch < recipe.epochs
        done = progress.finished and not (changes and longer)
        if done and not lacks_test(run):
            return run
        progress.finished = done
        sitting = sitting.seen_by(writer=world.writes)
        remark = sitting.reporter.remark
        for other in _changed_environment(recorded, world):
            remark(f"not bit-exact: {other}")
        if changes:
            remark(f"continues with a changed recipe: {'; '.join(changes)}")
        precisions = (each for each in get_args(Precision) if each == recorded.get("precision"))
        machine = Machine(
            device=where,
            precision=next(precisions, "fp32"),
            fused_norms=_fused_norms(recorded, where, world, remark),
            world=world,
        )
        check_machine(machine, recipe)
        dataset = _load_same_images(
            run,
            data or recorded_data(run.path),
            recipe=recipe,
            workers=workers,
            machine=machine,
            reporter=sitting.reporter,
            force=force,
        )
        if done:
            measure_test(run, dataset, machine)
            return run
        trainer = make_trainer(run, recipe, dataset, machine, sitting=sitting)
        if state is not None:
            apply_state(state, trainer, where=run.path / STATE)
            if recipe.lr != state.recipe.lr:  # as advised after the loss exploded
                progress.rate_factor, progress.rollbacks = 1.0, 0
        remark(_describe_place(run, recipe, progress, dataset, world))
        sitting = sitting.set_up()
        validation = plan_the_time(trainer, progress, dataset, sitting=sitting)
        if changes and world.writes:
            write_text(run.path / RECIPE, recipe.to_toml())
        run_loop(run, trainer, progress, dataset, validation=validation, sitting=sitting)
        measure_test(run, dataset, machine)
    return open_run(run.path)


def _describe_place(
    run: Run, recipe: Recipe, progress: Progress, dataset: Dataset, world: World
) -> str:
    images = len(dataset.splits["train"].labels)
    steps = images // images_per_step(recipe.batch_size, images, processes=world.size)
    epochs, limit = f" of {recipe.epochs}", ""
    if recipe.time_limit:
        epochs, limit = "", f" of {recipe.time_limit / 60:.1f}"
    return (
        f"{run.path}: continues at epoch {progress.epoch + 1}{epochs}, step {progress.step + 1} of "
        f"{steps}, after {progress.elapsed / 60:.1f}{limit} minutes"
    )


def is_of_this_launch(path: Path) -> bool:
    """Whether the `torchrun` that started this process also started the run in ``path``."""
    return launch() is not None and is_run(path) and _recorded(path).get(LAUNCH) == launch()


def recorded_threads(path: str | Path) -> int | None:
    """Return the number of threads that the run in ``path`` was started with, if recorded."""
    threads: Any = _recorded(Path(path)).get("threads") if is_run(Path(path)) else None
    if threads is not None:
        THREADS.check(f"{Path(path) / ENVIRONMENT}: threads", threads)
    return threads  # type: ignore[no-any-return]


def _recipe_changes(
    run: Run, recipe: Recipe, state: State | None, *, force: bool
) -> tuple[str, ...]:
    """Return how ``recipe`` differs from the run's so far; without ``force``, `InputError`."""
    trained_with = state.recipe if state is not None else load_recipe(run.path / RECIPE)
    # How often a state is saved and where images are kept does not change the result.
    changes = replace(trained_with, save_every=recipe.save_every, loader=recipe.loader).differences(
        recipe
    )
    if changes and not force:
        raise InputError(
            f"{run.path}: the recipe has changed since the run was started ({'; '.join(changes)}); "
            "--force continues with the new one"
        )
    return changes


def _load_same_images(
    run: Run,
    source: str | Path,
    *,
    recipe: Recipe,
    workers: int | None,
    machine: Machine,
    reporter: Reporter,
    force: bool,
) -> Dataset:
    """Return the images of the run; with ``force``, others of the same classes are accepted."""
    recorded = read_json(run.path / DATASET)
    known: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
    max_unusable = known.get(MAX_UNUSABLE, 1.0)
    FRACTION.check(f"{DATASET}: {MAX_UNUSABLE}", max_unusable)
    division = parse(Division, known.get("division", {}), where=f"{run.path / DATASET}: division")
    digests = (each for each in get_args(Digest) if each == known.get("digest"))
    found = find_images(source, groups=division.groups)
    images = changed_as_recorded(found, known, where=run.path / DATASET)
    dataset = load_images(
        images,
        resolution=run.arch.resolution,
        preprocess=run.preprocess,
        loader=recipe.loader,
        machine=machine,
        reading=Reading(workers=workers, max_unusable=1.0 if force else float(max_unusable)),
        reporter=reporter,
        digest=next(digests, "decoded pixels"),
        division=division,
        known=read_trained(run.path),
        seen=read_moved(known, where=run.path / DATASET),
    )
    if dataset.fingerprint == known.get("fingerprint"):
        return dataset
    changed = f"{source}: the images have changed since {run.path} was started"
    if list(dataset.classes) != known.get("classes"):
        raise InputError(f"{changed}, and so have their classes; start a new run")
    if not force:
        raise InputError(f"{changed}; start a new run, or use --force to continue with these")
    reporter.remark(changed)
    if machine.world.writes:
        kept = {"path": known.get("path"), MAX_UNUSABLE: max_unusable}
        kept |= recorded_changes(images)
        described = describe_trained(dataset, read_trained(run.path))
        write_json(run.path / DATASET, described | kept)
    return dataset


def _changed_environment(recorded: Mapping[str, object], world: World) -> Iterator[str]:
    """Yield what has changed since the run was started."""
    versions = recorded.get("versions")
    then = versions.get("torch") if isinstance(versions, dict) else None
    for what, before, now in (
        ("processes", recorded.get("processes"), world.size),
        ("threads", recorded.get("threads"), torch.get_num_threads()),
        ("torch", then, version_or_unknown("torch")),
        # Where there are none now, `_fused_norms` says why.
        ("kernels", recorded.get("kernels"), kernels_name() or recorded.get("kernels")),
    ):
        if before is not None and before != now:
            yield f"{what} {before} at the start, {now} now"


def _fused_norms(
    recorded: Mapping[str, object], device: torch.device, world: World, remark: Remark
) -> bool:
    """Return whether our kernels computed batch norms and still can."""
    if recorded.get("fused_norms") is not True or device.type != "cpu":
        return False
    can = can_fuse_norms(device, world=world)
    if not can:
        why = why_no_kernels() or "another process has no compiler"
        remark(f"continues without fused batch norms, not bit-exact: {why}")
    return can


def _recorded(path: Path) -> dict[str, object]:
    environment = read_json(path / ENVIRONMENT)
    return environment if isinstance(environment, dict) else {}

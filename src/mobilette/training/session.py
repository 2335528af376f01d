"""From images and a run directory to the loop: what `train` and `resume` have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import torch

from mobilette.data.dataset import Dataset
from mobilette.data.loader import make_loader
from mobilette.data.normalise import Normalise
from mobilette.data.opening import LoaderKind
from mobilette.errors import InputError
from mobilette.files import read_json, write_json
from mobilette.model.directory import DATASET
from mobilette.nn.network import Network
from mobilette.progress import Advance, Remark
from mobilette.run.directory import Run
from mobilette.training.costs import measure_costs
from mobilette.training.distributed import World
from mobilette.training.environment import Precision
from mobilette.training.events import Clock, Now, Report, Stopwatch, logged
from mobilette.training.loop import Loop
from mobilette.training.loss import Loss, balanced_weights
from mobilette.training.recipe import Recipe
from mobilette.training.recovery import Parts
from mobilette.training.sampling import Purpose, derive, images_of_a_step
from mobilette.training.state import Progress
from mobilette.training.step import Trainer
from mobilette.training.teacher import read_teacher
from mobilette.training.time_plan import TooShortError, describe, plan_time


def make_trainer(
    run: Run,
    recipe: Recipe,
    dataset: Dataset,
    *,
    device: torch.device,
    precision: Precision,
    fused_norms: bool,
    world: World,
    clock: Clock | None = None,
    report_download: Advance | None = None,
    remark: Remark | None = None,
) -> Trainer:
    """Return the trainer of a run, its network drawn from the recipe's seed.

    Raises:
        InputError: the recipe does not suit the images, or its teacher cannot be had.
    """
    multi_label = dataset.multi_label
    labels = dataset.splits["train"].labels
    if multi_label and "balanced" in (recipe.sampling, recipe.class_weights):
        raise InputError(
            "sampling and class_weights balance single labels; these images have several each"
        )
    with torch.random.fork_rng():
        torch.manual_seed(derive(recipe.seed, Purpose.weights))
        network = Network(run.arch)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = None
    if recipe.class_weights == "balanced":
        weights = balanced_weights(labels, len(run.classes)).to(device)
    teacher = None
    if recipe.teacher:
        teacher = read_teacher(
            recipe.teacher,
            arch=run.arch,
            classes=run.classes,
            multi_label=multi_label,
            device=device,
            remark=remark,
            report=report_download,
        )
        teacher.network.fused_norms = fused_norms
    return Trainer(
        network,
        normalise=Normalise(run.preprocess).to(device),
        recipe=recipe,
        precision=precision,
        fused_norms=fused_norms,
        flip=dataset.flippable,
        loss=Loss(recipe, multi_label=multi_label, weights=weights),
        teacher=teacher,
        world=world,
        clock=clock,
    )


def load_in_turn(
    load: Callable[[LoaderKind], Dataset], loader: LoaderKind, *, world: World
) -> Dataset:
    """Return what ``load`` loads: the first process does so first, the others likewise.

    They find the images decoded, and keep them where the first one does: how much memory is free
    may look different to each.
    """
    dataset = load(loader) if world.writes else None
    first = "resident" if dataset is None or dataset.store is None else "streamed"
    chosen: LoaderKind = "streamed" if world.broadcast(first) == "streamed" else "resident"
    return dataset or load(chosen)


def plan_the_time(
    trainer: Trainer,
    progress: Progress,
    dataset: Dataset,
    *,
    started: float,
    now: Now,
    remark: Remark,
) -> float:
    """Plan how the rest of a run fits its time; return the seconds of a validation, or 0.

    A run that has begun and has too little time left is not refused, but ended: that is said.

    Raises:
        InputError: a run that is to begin does not fit, with a time that would do.
    """
    recipe, world, limit = trainer.recipe, trainer.world, trainer.recipe.time_limit
    progress.parts = max(progress.parts, recipe.accumulate)
    if not limit:
        return 0.0
    images = len(dataset.splits["train"].labels)
    batch = images_of_a_step(recipe.batch_size, images, processes=world.size)
    (begun,) = world.all_reduce_max((now() - started + progress.elapsed,))
    costs = measure_costs(
        trainer,
        progress,
        dataset,
        parts=Parts(trainer.optimizer, batch=batch, processes=world.size, remark=remark),
        share=batch // world.size,
        left=limit - begun,
        now=now,
    )
    (spent,) = world.all_reduce_max((now() - started + progress.elapsed,))
    if progress.validates_first:
        spent += costs.validation
    steps = images // batch
    alone = max(recipe.frozen_epochs - progress.epoch, 0)
    try:
        plan = plan_time(
            limit,
            spent=spent,
            costs=costs,
            steps_of_epoch=steps,
            frozen_steps=max(alone * steps - progress.step, 0),
            unread=steps - progress.index,
        )
    except TooShortError:
        if not progress.index:
            raise
        remark(
            f"{max(limit - spent, 0.0):.1f} of {limit:g} seconds are left, too few to train in: "
            "ends with a validation (--time with --force gives it more)"
        )
        return costs.validation
    if alone:
        planned = (plan.frozen_steps + progress.step) // alone
        progress.frozen_steps = 0 if planned >= steps else max(planned, 1)
    remark(describe(plan, costs, limit=limit, steps_of_epoch=steps))
    return costs.validation


def run_loop(
    run: Run,
    trainer: Trainer,
    progress: Progress,
    dataset: Dataset,
    *,
    started: float,
    tensorboard: bool,
    report: Report,
    remark: Remark,
    validation: float = 0.0,
    now: Now = time.perf_counter,
) -> None:
    """Train to the end, from wherever ``progress`` stands; ``dataset`` is closed then."""
    progress.training_seconds += now() - started  # reading the images counts
    with (
        closing(dataset),
        closing(make_loader(dataset.splits["train"], device=trainer.device)) as loader,
        logged(report, folder=run.path, wanted=tensorboard and trainer.world.writes) as tell,
    ):
        Loop(
            trainer,
            progress,
            dataset,
            loader,
            folder=run.path,
            started=started,
            validation=validation,
            now=now,
            report=tell,
            remark=remark,
        ).run()
        _record_broken(run, dataset, trainer.world)
    if isinstance(trainer.clock, Stopwatch):
        report(trainer.clock.result())


def _record_broken(run: Run, dataset: Dataset, world: World) -> None:
    """Write into dataset.json which streamed images some process has found broken."""
    found = {entry for unusable in world.all_gather(dataset.unusable) for entry in unusable}
    if not world.writes:
        return
    recorded = read_json(run.path / DATASET)
    now = [{"path": name, "reason": reason} for name, reason in sorted(found)]
    if isinstance(recorded, dict) and recorded.get("unusable") != now:
        write_json(run.path / DATASET, recorded | {"unusable": now})

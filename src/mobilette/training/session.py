"""What `train` and `resume` share: from images and a run directory to the loop."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch

from mobilette.arch.scale import Resolution
from mobilette.data.cache import images_cache
from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.digests import NEW, NONE, Digests, Trained, digests_of
from mobilette.data.division import WHOLE, Division
from mobilette.data.images import Digest, ImageSet
from mobilette.data.loader import make_loader
from mobilette.data.normalise import Normalise
from mobilette.data.opening import LoaderKind
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading
from mobilette.data.store import StreamedPixels
from mobilette.errors import InputError
from mobilette.files import read_json, write_json
from mobilette.model.directory import DATASET
from mobilette.nn.network import Network
from mobilette.progress import Reporter
from mobilette.run.answers import check_promise
from mobilette.run.directory import Run
from mobilette.run.promise import parse_promise
from mobilette.run.trained import TRAINED, now_known
from mobilette.training.distributed import World
from mobilette.training.environment import Precision
from mobilette.training.events import Callbacks, Event, Sitting, Stopwatch, tensorboard_log
from mobilette.training.graphs import check_graphs
from mobilette.training.loop import Loop
from mobilette.training.loss import Loss, balanced_weights
from mobilette.training.process import describe_allocator
from mobilette.training.recipe import Recipe
from mobilette.training.sampling import Purpose, derive
from mobilette.training.state import Progress
from mobilette.training.step import Trainer
from mobilette.training.teacher import read_teacher


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is trained on: ``fused_norms`` says whether our kernels compute batch norms."""

    device: torch.device
    precision: Precision
    fused_norms: bool
    world: World


def check_machine(machine: Machine, recipe: Recipe) -> None:
    """Raise `InputError` if the steps of ``recipe`` cannot be captured there, as it asks."""
    check_graphs(
        recipe,
        device=machine.device,
        precision=machine.precision,
        processes=machine.world.size,
    )


def describe_machine(machine: Machine) -> str:
    """Return what trains, in one line."""
    size = machine.world.size
    processes = f"{size} processes, " if size > 1 else ""
    norms = ", fused batch norms" if machine.fused_norms else ""
    memory = ", freed memory is kept" if describe_allocator() == "keeps memory" else ""
    return (
        f"{processes}{machine.device}, {torch.get_num_threads()} threads, "
        f"{machine.precision}{norms}{memory}"
    )


def load_images(
    images: ImageSet,
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    loader: LoaderKind,
    machine: Machine,
    reading: Reading,
    reporter: Reporter,
    digest: Digest | None = None,
    division: Division = WHOLE,
    known: Trained = NEW,
    seen: Digests = NONE,
) -> Dataset:
    """Return the images to train and validate on, through the cache.

    The first process reads them and decides where all keep them: free memory may look different to
    the others.
    """
    device = machine.device
    load = partial(
        load_dataset,
        images,
        resolution=resolution,
        preprocess=preprocess,
        reading=replace(reading, cache=images_cache(reporter.remark)),
        reporter=reporter,
        digest=digest,
        division=division,
        known=known,
        seen=seen,
        device_memory=int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None,
        processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),  # on this machine, by torchrun
    )
    dataset = load(loader=loader) if machine.world.writes else None
    first = "resident" if dataset is None or dataset.store is None else "streamed"
    chosen: LoaderKind = "streamed" if machine.world.broadcast(first) == "streamed" else "resident"
    return dataset or load(loader=chosen)


def make_trainer(
    run: Run,
    recipe: Recipe,
    dataset: Dataset,
    machine: Machine,
    *,
    sitting: Sitting,
    profile: bool = False,
) -> Trainer:
    """Return the trainer of a run, its network initialised from the recipe's seed.

    Raises:
        InputError: the recipe does not suit the images, or its teacher cannot be used.
    """
    multi_label, device = dataset.multi_label, machine.device
    if recipe.promise:
        part = dataset.splits.get("test", dataset.splits["val"])
        check_promise(
            parse_promise(recipe.promise),
            images=len(part.labels),
            multi_label=multi_label,
            where=dataset.source,
        )
    if multi_label and "balanced" in (recipe.sampling, recipe.class_weights):
        raise InputError(
            "sampling and class_weights can balance single labels only; these images have several"
        )
    with torch.random.fork_rng():
        torch.manual_seed(derive(recipe.seed, Purpose.weights))
        network = Network(run.arch)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = teacher = None
    if recipe.class_weights == "balanced":
        labels = dataset.splits["train"].labels
        weights = balanced_weights(labels, len(run.classes)).to(device)
    if recipe.teacher:
        teacher = read_teacher(
            recipe.teacher,
            arch=run.arch,
            classes=run.classes,
            multi_label=multi_label,
            device=device,
            remark=sitting.reporter.remark,
            report=sitting.reporter.download,
        )
        teacher.network.fused_norms = machine.fused_norms
    return Trainer(
        network,
        normalise=Normalise(run.preprocess).to(device),
        recipe=recipe,
        precision=machine.precision,
        fused_norms=machine.fused_norms,
        flip=dataset.flippable,
        loss=Loss(recipe, multi_label=multi_label, weights=weights),
        teacher=teacher,
        world=machine.world,
        clock=Stopwatch(device, now=sitting.now) if profile else None,
    )


def run_loop(
    run: Run,
    trainer: Trainer,
    progress: Progress,
    dataset: Dataset,
    *,
    validation: float,
    sitting: Sitting,
) -> None:
    """Train from ``progress`` to the end, then close ``dataset``.

    ``validation`` is the measured seconds of a validation, or 0.
    """
    progress.training_seconds += sitting.elapsed()  # reading the images counts
    callbacks = Callbacks(sitting.callbacks)
    with (
        closing(dataset),
        closing(make_loader(dataset.splits["train"], device=trainer.device)) as loader,
        tensorboard_log(run.path, wanted=sitting.tensorboard) as log,
    ):

        def report(event: Event) -> None:
            sitting.report(event)
            log(event)
            callbacks(event)

        loop = Loop(
            trainer,
            progress,
            dataset,
            loader,
            folder=run.path,
            validation=validation,
            sitting=replace(sitting, report=report),
            callbacks=callbacks,
        )
        loop.run()
        loop.validator.promise_on_test(run, loop.progress)
        if loop.validator.fitted is not None:
            for line in loop.validator.fitted.remarks:
                sitting.reporter.remark(f"{run.path}: {line}")
        _record_found(run, dataset, trainer.world)
        if isinstance(trainer.clock, Stopwatch):
            report(trainer.clock.result())
    callbacks.raise_error()


def _record_found(run: Run, dataset: Dataset, world: World) -> None:
    """Add to dataset.json what reading streamed images has shown.

    These are the broken ones that any process found, and what the run was trained on.
    """
    found = {entry for unusable in world.all_gather(dataset.unusable) for entry in unusable}
    images = _streamed_images(dataset, world)
    if not world.writes:
        return
    recorded = read_json(run.path / DATASET)
    if not isinstance(recorded, dict):
        return
    now = [{"path": name, "reason": reason} for name, reason in sorted(found)]
    whole = recorded | {"unusable": now}
    if images is not None and TRAINED in recorded:
        whole = now_known(whole, images)
    if whole != recorded:
        write_json(run.path / DATASET, whole)


def _streamed_images(dataset: Dataset, world: World) -> Digests | None:
    """Return the training images of a set that was not read in advance, by their files."""
    pixels = dataset.splits["train"].pixels
    if dataset.content is not None or not isinstance(pixels, StreamedPixels):
        return None
    store = pixels.store
    usable = pixels.positions[pixels.usable()].tolist()
    known: dict[int, bytes] = {}
    for some in world.all_gather({at: store.digests[at] for at in usable if at in store.digests}):
        known |= some
    if not world.writes:
        return None
    # An epoch leaves out the images that fill no batch.
    others = digests_of([store.images[at] for at in usable if at not in known], "files")
    return Digests.of([*(digest.hex() for digest in known.values()), *others], "files")

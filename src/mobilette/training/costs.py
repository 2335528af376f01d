"""Times steps, reading and validation before the first step, and plans the time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.data.dataset import Dataset
from mobilette.data.splits import Split
from mobilette.data.store import StreamedPixels
from mobilette.run.inference import checkpoint_logits
from mobilette.training.events import Now, Sitting
from mobilette.training.recovery import Parts
from mobilette.training.sampling import images_per_step
from mobilette.training.state import Progress
from mobilette.training.step import Trainer
from mobilette.training.time_plan import LEAST_STEPS, Costs, TooShortError, describe, plan_time
from mobilette.training.validation import IMAGES

_VALIDATED = 64  # images that a validation is timed on
_LONG = 0.02  # fraction of the time left: a longer first step is repeated only if it would not fit


def measure_costs(
    trainer: Trainer,
    progress: Progress,
    dataset: Dataset,
    *,
    parts: Parts,
    share: int,
    left: float,
    now: Now,
) -> Costs:
    """Return the costs, the maximum over all processes; ``trainer`` is restored afterwards.

    If memory runs out, ``progress.parts`` grows until a step fits. ``share`` is this process's
    images per step, ``left`` the seconds left to train.
    """
    train, device = dataset.splits["train"], trainer.device
    pixels, first_reading, reading = _read(train, share, now)
    labels = torch.from_numpy(train.labels[:share]).to(device)
    with _restored(trainer), torch.random.fork_rng():
        step = partial(_step, trainer, progress, torch.from_numpy(pixels).to(device), labels, now)

        def seconds(epoch: int) -> float:
            return parts.work(partial(step, epoch), progress, images=share)

        frozen_epochs = trainer.recipe.frozen_epochs
        (whole,) = trainer.world.all_reduce_max((seconds(frozen_epochs),))
        # The first step includes one-off work such as compiling: no run is refused because of it.
        if whole <= _LONG * left or LEAST_STEPS * whole > left:
            whole = seconds(frozen_epochs)
        frozen = min(seconds(0), whole) if progress.epoch < frozen_epochs else 0.0
        at_once = max(share // progress.parts, 1)
        validation = parts.work(
            lambda: _validation(trainer, dataset, at_once, now), progress, images=share
        )
    found = (whole, frozen, validation, first_reading, reading)
    whole, frozen, validation, first_reading, reading = trainer.world.all_reduce_max(found)
    # Decoding takes cores that a step on the CPU needs, but no GPU time.
    streamed = train.pixels.store if isinstance(train.pixels, StreamedPixels) else None
    return Costs(
        step=whole,
        frozen_step=frozen,
        validation=validation,
        first_reading=first_reading,
        reading=reading,
        overlap=device.type != "cpu" and streamed is not None and streamed.workers > 0,
    )


def _step(
    trainer: Trainer, progress: Progress, pixels: Tensor, labels: Tensor, now: Now, epoch: int
) -> float:
    """Return the seconds of a step in ``epoch`` at full resolution (the end of the schedule)."""
    begun = now()
    trainer.begin_epoch(epoch)
    loss = trainer.step(pixels, labels, index=0, place=(0, 0), progress=1.0, parts=progress.parts)
    float(loss)  # waits for the device
    return now() - begun


@contextmanager
def _restored(trainer: Trainer) -> Iterator[None]:
    holders: tuple[Any, ...] = (
        trainer.network,
        trainer.average.network,
        trainer.optimizer,
        trainer.scaler,
    )
    before = [copy.deepcopy(each.state_dict()) for each in holders]
    try:
        yield
    finally:
        for each, state in zip(holders, before, strict=True):
            each.load_state_dict(state)
        trainer.optimizer.zero_grad(set_to_none=True)


def _read(split: Split, count: int, now: Now) -> tuple[NDArray[np.uint8], float, float]:
    """Return ``count`` random images, the seconds to read them, and to read them again."""
    if not isinstance(split.pixels, StreamedPixels):
        return split.pixels[:count], 0.0, 0.0
    split.pixels[:1]  # starts the workers
    rows = np.random.default_rng().choice(len(split.labels), count, replace=False)
    begun = now()
    pixels = split.pixels[rows]
    read = now()
    split.pixels[rows]
    return pixels, read - begun, min(now() - read, read - begun)


def _validation(trainer: Trainer, dataset: Dataset, at_once: int, now: Now) -> float:
    split = dataset.splits["val"]
    count = min(_VALIDATED, len(split.labels), at_once)
    pixels, reading, _ = _read(split, count, now)
    checkpoint_logits(trainer.average.network, trainer.normalise, pixels[:1])  # to warm up
    begun = now()
    checkpoint_logits(trainer.average.network, trainer.normalise, pixels)
    taken = now() - begun + reading
    images = len(split.labels) / trainer.world.size
    if trainer.recipe.norm_statistics == "batch":
        images += min(IMAGES, len(dataset.splits["train"].labels))
    return taken * max(images / count, 1.0)


def plan_the_time(
    trainer: Trainer, progress: Progress, dataset: Dataset, *, sitting: Sitting
) -> float:
    """Fit the rest of a run into its time limit; return the seconds of a validation, or 0.

    A run that has begun and has too little time left is ended with a remark, not refused.

    Raises:
        TooShortError: a new run does not fit; the message names a time that would do.
    """
    recipe, world, limit = trainer.recipe, trainer.world, trainer.recipe.time_limit
    remark = sitting.reporter.remark
    progress.parts = max(progress.parts, recipe.accumulate)
    if not limit:
        return 0.0
    images = len(dataset.splits["train"].labels)
    batch = images_per_step(recipe.batch_size, images, processes=world.size)
    if progress.index and recipe.schedule == "constant":
        # Nothing depends on how many steps there will be; they are not tried out.
        at_once = max(batch // world.size // progress.parts, 1)
        (taken,) = world.all_reduce_max((_validation(trainer, dataset, at_once, sitting.now),))
        return taken
    (begun,) = world.all_reduce_max((sitting.elapsed() + progress.elapsed,))
    costs = measure_costs(
        trainer,
        progress,
        dataset,
        parts=Parts(trainer.optimizer, batch=batch, processes=world.size, remark=remark),
        share=batch // world.size,
        left=limit - begun,
        now=sitting.now,
    )
    (spent,) = world.all_reduce_max((sitting.elapsed() + progress.elapsed,))
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
            f"{max(limit - spent, 0.0):.1f} of {limit:g} seconds are left, too few to train: "
            "validates and ends (--time with --force gives it more)"
        )
        return costs.validation
    if alone:
        planned = (plan.frozen_steps + progress.step) // alone
        progress.frozen_steps = 0 if planned >= steps else max(planned, 1)
    remark(describe(plan, costs, limit=limit, steps_of_epoch=steps))
    return costs.validation

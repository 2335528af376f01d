"""What steps, reading and validations take, measured before the first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilette.data.dataset import Dataset
from mobilette.data.splits import Split
from mobilette.data.store import StreamedPixels
from mobilette.run.inference import checkpoint_logits
from mobilette.training.events import Now
from mobilette.training.recovery import Parts
from mobilette.training.state import Progress
from mobilette.training.step import Trainer
from mobilette.training.time_plan import LEAST_STEPS, Costs
from mobilette.training.validation import IMAGES

_VALIDATED = 64  # images that a validation is measured on
_LONG = 0.02  # of the time: a first step that takes longer is not repeated, if it may be as long


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
    """Return what steps and validations take, the longest over all processes.

    ``trainer`` is afterwards what it was before. Where memory runs out, ``progress`` says
    afterwards in how many parts the steps fit.

    Args:
        trainer: with its weights.
        progress: says in how many parts a batch is worked through.
        dataset: images to train on and to validate.
        parts: does a step again where memory runs out.
        share: images of a step in this process.
        left: seconds in which all training is to be done.
        now: tells the time.
    """
    train, device = dataset.splits["train"], trainer.device
    pixels, first_reading, reading = _read(train, share, now)
    rows = np.arange(share)
    given = torch.from_numpy(pixels).to(device), torch.from_numpy(train.labels[rows]).to(device)

    def step(epoch: int) -> float:
        def work() -> float:
            begun = now()
            trainer.begin_epoch(epoch)
            # The end of the schedule: images are never larger.
            loss = trainer.step(*given, index=0, place=(0, 0), progress=1.0, parts=progress.parts)
            float(loss)  # waits for the device
            return now() - begun

        return parts.work(work, progress, images=share)

    frozen_epochs = trainer.recipe.frozen_epochs
    undo = _remembered(trainer)
    try:
        with torch.random.fork_rng():
            (whole,) = trainer.world.all_reduce_max((step(frozen_epochs),))
            # The first one makes what the others find, as compiled code: nobody is refused for it.
            if whole <= _LONG * left or LEAST_STEPS * whole > left:
                whole = step(frozen_epochs)
            frozen = min(step(0), whole) if progress.epoch < frozen_epochs else 0.0
            at_once = max(share // progress.parts, 1)
            validation = parts.work(
                lambda: _validation(trainer, dataset, at_once, now), progress, images=share
            )
    finally:
        undo()
    found = (whole, frozen, validation, first_reading, reading)
    whole, frozen, validation, first_reading, reading = trainer.world.all_reduce_max(found)
    # Decoding takes the cores that a step on the CPU needs, and no time of a GPU's.
    streamed = train.pixels.store if isinstance(train.pixels, StreamedPixels) else None
    return Costs(
        step=whole,
        frozen_step=frozen,
        validation=validation,
        first_reading=first_reading,
        reading=reading,
        overlap=device.type != "cpu" and streamed is not None and streamed.workers > 0,
    )


def _remembered(trainer: Trainer) -> Callable[[], None]:
    """Return what makes ``trainer`` again what it is now."""
    holders: tuple[Any, ...] = (
        trainer.network,
        trainer.average.network,
        trainer.optimizer,
        trainer.scaler,
    )
    before = [copy.deepcopy(each.state_dict()) for each in holders]

    def undo() -> None:
        for each, state in zip(holders, before, strict=True):
            each.load_state_dict(state)
        trainer.optimizer.zero_grad(set_to_none=True)

    return undo


def _read(split: Split, count: int, now: Now) -> tuple[NDArray[np.uint8], float, float]:
    """Return some images, and the seconds that reading as many takes first, and then again.

    They are drawn at random: those that the cache has already are read fast, in their share.
    """
    if not isinstance(split.pixels, StreamedPixels):
        return split.pixels[:count], 0.0, 0.0
    split.pixels[:1]  # the workers are started
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

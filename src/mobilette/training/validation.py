"""How good the averaged weights are on the images held out."""

from __future__ import annotations

import numpy as np

from mobilette.data.dataset import Dataset
from mobilette.data.store import part_of
from mobilette.errors import InputError
from mobilette.run.inference import checkpoint_logits
from mobilette.run.metrics import Metrics, measure
from mobilette.training.measured import images_to_measure
from mobilette.training.step import Trainer


def validate(
    trainer: Trainer, dataset: Dataset, *, epoch: int, at_once: int | None = None
) -> Metrics:
    """Return how the averaged weights do on ``val``; the processes share the images.

    Args:
        trainer: its average gets batch norm statistics of its own first, measured on training
            images, where the recipe says so.
        dataset: with the splits ``train`` and ``val``.
        epoch: the one that is over, from 0; the images to measure on are drawn for it.
        at_once: how many images may go through the network together, where memory is scarce.

    Raises:
        InputError: no image of ``val`` can be read any more.
    """
    recipe, average = trainer.recipe, trainer.average
    if recipe.norm_statistics == "batch" and epoch >= recipe.frozen_epochs:
        batches = images_to_measure(trainer, dataset.splits["train"], epoch=epoch, at_once=at_once)
        average.measure_statistics(batches)
    split = dataset.splits["val"]
    # One part a process, in order, so that together they are the split again.
    ends = np.linspace(0, len(split.labels), trainer.world.size + 1).astype(int)
    first, last = ends[trainer.world.rank], ends[trainer.world.rank + 1]
    own = checkpoint_logits(
        average.network, trainer.normalise, part_of(split.pixels, first, last), at_once=at_once
    )
    usable = split.usable()[first:last]
    logits = np.concatenate(trainer.world.gather(own[usable]))
    counted = np.concatenate(trainer.world.gather(usable))
    if not counted.any():
        raise InputError(f"{dataset.source}: none of the images held out can be read any more")
    return measure(logits, split.labels[counted], dataset.classes)

"""The images that batch norm statistics are measured on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mobilette.data.splits import Split
from mobilette.training.randomness import Purpose, generator
from mobilette.training.step import Trainer

IMAGES, BATCH = 512, 128


def images_to_measure(
    trainer: Trainer, train: Split, *, epoch: int, at_once: int | None = None
) -> Iterator[Tensor]:
    """Yield normalised batches of training images as they are, others in each ``epoch``.

    They are of `BATCH` images, or ``at_once`` where that is less.
    """
    chosen = torch.randperm(
        len(train.labels), generator=generator(trainer.recipe.seed, Purpose.statistics, epoch)
    )[:IMAGES]
    # Equal parts: a single image left over would count as much as a whole batch.
    for rows in chosen.tensor_split(-(-len(chosen) // min(BATCH, at_once or BATCH))):
        pixels = torch.from_numpy(train.pixels[rows.numpy()]).to(trainer.device)
        yield trainer.normalise(pixels).contiguous(memory_format=torch.channels_last)

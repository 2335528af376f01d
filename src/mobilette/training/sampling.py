"""Random streams that depend only on the position in a run, and the order of the images."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from mobilette.errors import InputError


class Purpose(IntEnum):
    """What random numbers are for; each purpose has its own stream."""

    weights = 0
    order = 1
    step = 2
    statistics = 3


def generator(
    seed: int, purpose: Purpose, epoch: int = 0, step: int = 0, part: int = 0
) -> Generator:
    """Return a generator for one position in the run ``seed``, the same after a resume."""
    return Generator().manual_seed(derive(seed, purpose, epoch, step, part))


def derive(seed: int, purpose: Purpose, epoch: int = 0, step: int = 0, part: int = 0) -> int:
    """Return a 63-bit seed for one position; other positions give unrelated seeds."""
    # Always five words below 2**32: NumPy pads shorter sequences and splits larger numbers.
    place = (seed, int(purpose), epoch, step, part)
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)


# Images of this many shards are mixed: reads stay local, batches are still diverse.
WINDOW = 16


def epoch_order(
    labels: NDArray[np.int64] | NDArray[np.uint8],
    *,
    sampling: Literal["shuffled", "balanced"],
    shards: NDArray[np.int64] | None,
    generator: Generator,
) -> Tensor:
    """Return the rows of one epoch in random order, int64 (N,).

    ``shuffled`` shows every image once; ``balanced`` draws N images with every class of ``labels``
    (N,) equally often. With ``shards``, int64 (N,), the shard of each image, shards are shuffled,
    and images among `WINDOW` shards at a time, so that only a few files are read at once.
    """
    if sampling == "balanced":
        return _balanced(labels, generator)
    order = torch.randperm(len(labels), generator=generator)
    if shards is None:
        return order
    kinds, of_row = np.unique(shards, return_inverse=True)
    window = torch.randperm(len(kinds), generator=generator) // WINDOW
    # The rows are shuffled already, so a stable sort leaves each window shuffled.
    places = window[torch.from_numpy(of_row)[order]]
    return order[torch.sort(places, stable=True).indices]


def _balanced(labels: NDArray[np.int64] | NDArray[np.uint8], generator: Generator) -> Tensor:
    present = np.unique(labels)
    classes = torch.arange(len(labels)) % len(present)
    classes = classes[torch.randperm(len(labels), generator=generator)]
    rows = torch.empty(len(labels), dtype=torch.int64)
    for number, label in enumerate(present):
        places = (classes == number).nonzero().flatten()
        own = torch.from_numpy(np.flatnonzero(labels == label))
        rounds = [
            own[torch.randperm(len(own), generator=generator)]
            for _ in range(-(-len(places) // len(own)))
        ]
        if rounds:
            rows[places] = torch.cat(rounds)[: len(places)]
    return rows


def images_per_step(asked: int, images: int, *, processes: int) -> int:
    """Return the images per step: as asked, at most all, the same in each process.

    Raises:
        InputError: there are fewer than two per process, which batch norm needs.
    """
    size = min(asked, images) // processes * processes
    if size < 2 * processes:
        raise InputError(
            f"a batch of {min(asked, images)} images is too small for {processes} processes: "
            "each needs at least two"
        )
    return size

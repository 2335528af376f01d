"""Random numbers that depend on where a run is, not on how it got there."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from torch import Generator


class Purpose(IntEnum):
    """What random numbers are for; each purpose has a stream of its own."""

    weights = 0
    order = 1
    step = 2
    statistics = 3


def generator(
    seed: int, purpose: Purpose, epoch: int = 0, step: int = 0, part: int = 0
) -> Generator:
    """Return a generator for one place of the run ``seed``.

    A resumed run draws the same numbers as one that was never stopped, because nothing has to be
    remembered.
    """
    return Generator().manual_seed(derive(seed, purpose, epoch, step, part))


def derive(seed: int, purpose: Purpose, epoch: int = 0, step: int = 0, part: int = 0) -> int:
    """Return a 63-bit seed for one place; different places give unrelated seeds."""
    # Always five words below 2**32: NumPy pads shorter sequences and splits larger numbers.
    place = (seed, int(purpose), epoch, step, part)
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)

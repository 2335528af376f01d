"""Random numbers that depend on where a run is, not on how it got there."""

from __future__ import annotations

import numpy as np
from torch import Generator


def generator(seed: int, *place: int) -> Generator:
    """Return a generator for one ``place`` (an epoch; an epoch and a step) of the run ``seed``.

    A resumed run draws the same numbers as one that was never stopped, because nothing has to be
    remembered.
    """
    return Generator().manual_seed(derive(seed, *place))


def derive(seed: int, *place: int) -> int:
    """Return a 63-bit seed for ``place``; different places give unrelated seeds."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0] >> 1)

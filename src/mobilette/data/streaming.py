"""The pixels of a split that do not stay in memory: rows come when they are asked for."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mobilette.data.store import ImageStore


class StreamedPixels:
    """Rows of a `ImageStore`, indexed as an array uint8 (N, C, R, R) is.

    Attributes:
        store: where the rows come from; the splits of a set share it.
        positions: int64 (N,), the position in the store of every row.
    """

    def __init__(self, store: ImageStore, positions: NDArray[np.int64]) -> None:
        self.store, self.positions = store, positions

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape (N, C, R, R)."""
        return (len(self.positions), *self.store.row_shape)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the rows, read now; those of broken images are zeros (see `usable`).

        Raises:
            InputError: too many images are broken, or a worker process died.
        """
        positions = self.positions[key]
        out = np.zeros((len(positions), *self.store.row_shape), np.uint8)
        self.store.fill(positions, out)
        self.store.settle()
        return out

    def part(self, first: int, last: int) -> StreamedPixels:
        """Return the rows from ``first`` to before ``last``, none of which is read yet."""
        return StreamedPixels(self.store, self.positions[first:last])

    def usable(self) -> NDArray[np.bool_]:
        """Return, bool (N,), which rows did not turn out to be broken so far."""
        broken = self.store.broken
        return np.array([int(position) not in broken for position in self.positions], np.bool_)


Pixels: TypeAlias = NDArray[np.uint8] | StreamedPixels


def part_of(pixels: Pixels, first: int, last: int) -> Pixels:
    """Return rows of ``pixels`` where they lie: in memory, or to be read batch by batch."""
    return pixels.part(first, last) if isinstance(pixels, StreamedPixels) else pixels[first:last]

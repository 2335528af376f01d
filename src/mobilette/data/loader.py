"""Batches of a split on the training device, from memory or decoded on demand."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.data.splits import Split
from mobilette.data.store import StreamedPixels, cancel


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some images of a split.

    Attributes:
        pixels: uint8 (N, C, H, W) on the device, contiguous.
        rows: int64 (N,) on the CPU, rows of the split. Broken images are left out, so N may be 0.
    """

    pixels: Tensor
    rows: Tensor


class Loader(Protocol):
    """A source of batches."""

    def batches(self, order: Sequence[Tensor]) -> Generator[Batch, None, None]:
        """Yield a batch for each element of ``order``: int64 on the CPU, rows of the split.

        Raises:
            InputError: too many images are broken, or a worker process died.
        """

    def close(self) -> None:
        """End background threads and processes; `batches` starts them again."""


def make_loader(split: Split, *, device: torch.device, prefetch: int = 4) -> Loader:
    """Return the loader that suits the pixels of ``split``; the batches do not depend on it.

    Images in memory all move to ``device``; streamed ones are read ``prefetch`` batches ahead.
    """
    if isinstance(split.pixels, StreamedPixels):
        return _Streamed(split.pixels, device, prefetch)
    return _Resident(split.pixels, device)


class _Resident:
    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        self._pixels = torch.from_numpy(pixels).to(device)

    def batches(self, order: Sequence[Tensor]) -> Generator[Batch, None, None]:
        if not order:
            return
        # One transfer for all: on a GPU each would wait for the steps before it.
        everywhere = torch.cat(list(order)).to(self._pixels.device)
        first = 0
        for rows in order:
            pixels = self._pixels[everywhere[first : first + len(rows)]]
            first += len(rows)
            yield Batch(pixels=pixels, rows=rows)

    def close(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True, eq=False)
class _Begun:
    rows: Tensor
    positions: NDArray[np.int64]
    pixels: Tensor
    futures: list[Future[None]]


class _Streamed:
    def __init__(self, pixels: StreamedPixels, device: torch.device, prefetch: int) -> None:
        self._source, self._store = pixels, pixels.store
        self._device = device
        # Without workers, rows are read in this thread: the later, the better.
        self._prefetch = prefetch if self._store.workers else 0

    def batches(self, order: Sequence[Tensor]) -> Generator[Batch, None, None]:
        coming = iter(order)
        ahead: deque[_Begun] = deque()
        try:
            for _ in order:
                while len(ahead) <= self._prefetch and (rows := next(coming, None)) is not None:
                    ahead.append(self._begin(rows))
                begun = ahead.popleft()
                for future in begun.futures:
                    future.result()
                self._store.report_failures()
                yield self._finish(begun)
        finally:
            cancel(future for begun in ahead for future in begun.futures)

    def close(self) -> None:
        self._store.close()

    def _begin(self, rows: Tensor) -> _Begun:
        positions = self._source.positions[rows.numpy()]
        shape = (len(rows), *self._store.row_shape)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        futures = self._store.start(positions, pixels.numpy())
        return _Begun(rows=rows, positions=positions, pixels=pixels, futures=futures)

    def _finish(self, begun: _Begun) -> Batch:
        rows, pixels = begun.rows, begun.pixels
        whole = [position not in self._store.broken for position in begun.positions.tolist()]
        if not all(whole):
            rows, pixels = rows[torch.tensor(whole)], pixels[torch.tensor(whole)]
        pixels = pixels.to(self._device, non_blocking=True)
        return Batch(pixels=pixels, rows=rows)

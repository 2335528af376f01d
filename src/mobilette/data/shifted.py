"""Read images under every shift: each is decoded once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.scale import Resolution
from mobilette.data.formats import UnusableImage
from mobilette.data.images import LabelledImage
from mobilette.data.machine import check_memory
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import WORTH_PROCESSES, Reading
from mobilette.data.shifts import SHIFTS, STRENGTHS, reduced_to_detail, shifted
from mobilette.data.store import ImageStore
from mobilette.data.workers import CHUNK, Decoder, Job, Outcome
from mobilette.progress import Reporter

# The shift and strength of every version of an image but the first, which is not shifted.
VERSIONS = tuple((shift, strength) for shift in SHIFTS for strength in STRENGTHS)
COUNT = 1 + len(VERSIONS)


@dataclass(frozen=True, kw_only=True)
class ShiftedDecoder(Decoder):
    """How an image becomes a row of itself and its `VERSIONS`, one behind the other."""

    of_pixels: bool = True

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """The shape (versions x C, H, W) of a row."""
        channels, height, width = super().row_shape
        return COUNT * channels, height, width

    def decode(self, job: Job, out: NDArray[np.uint8]) -> Outcome:
        """Write the image's versions to ``out``; return nothing, or why it is unusable."""
        rows = out.reshape(COUNT, -1, *out.shape[1:])
        try:
            image = job.image.open()
            rows[0] = self.preprocess.geometry(image, self.resolution)
            most = self.preprocess.shrinking(image.size, self.resolution)
            plain = reduced_to_detail(image, most=most).convert("RGB")
            for place, (shift, strength) in enumerate(VERSIONS, start=1):
                version = shifted(plain, shift, strength, name=job.image.name)
                rows[place] = self.preprocess.geometry(version, self.resolution)
        except UnusableImage as error:
            return str(error)
        except MemoryError:
            return "too large for the memory"
        return b""


def read_shifted(
    images: Sequence[LabelledImage],
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    reading: Reading,
    reporter: Reporter,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield images a few at a time, in order: their positions and uint8 (N, versions, C, H, W).

    The first version is the image as it is, the others are `VERSIONS`. Unusable images are left
    out, and remarked on at the end.

    Args:
        images: what to read.
        resolution: of the result, in pixels.
        preprocess: how to resize; mean and std are not applied.
        reading: its cache is not used.
        reporter: receives progress.

    Raises:
        InputError: they do not fit in memory, too many images are unusable, or a worker died.
    """
    decoder = ShiftedDecoder(preprocess=preprocess, resolution=resolution)
    many = len(images) * len(VERSIONS) >= WORTH_PROCESSES
    workers = reading.processes if many and reading.processes > 1 else 0
    channels, height, width = decoder.row_shape
    check_memory(((workers + 2) * CHUNK * COUNT, channels // COUNT, height, width))
    store = ImageStore(
        images,
        decoder,
        reduced=[False] * len(images),
        workers=workers,
        max_unusable=reading.max_unusable,
        remark=reporter.remark,
    )
    waiting: deque[tuple[NDArray[np.int64], NDArray[np.uint8], list[Future[None]]]] = deque()

    def finished() -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        positions, pixels, futures = waiting.popleft()
        for future in futures:
            future.result()
        store.check_unusable()
        usable = np.array([position not in store.broken for position in positions.tolist()])
        reporter.reading(int(positions[-1]) + 1, len(images))
        return positions[usable], pixels[usable].reshape(
            -1, COUNT, channels // COUNT, height, width
        )

    try:
        for first in range(0, len(images), CHUNK):
            positions = np.arange(first, min(first + CHUNK, len(images)))
            pixels = np.empty((len(positions), *decoder.row_shape), np.uint8)
            waiting.append((positions, pixels, store.start(positions, pixels)))
            if len(waiting) > workers:
                yield finished()
        while waiting:
            yield finished()
    finally:
        store.close()
    for name, reason in store.unusable():
        reporter.remark(f"left out: {name}: {reason}")

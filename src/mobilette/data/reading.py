"""Read many images into one array: decode, hash and resize, in worker processes or here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.scale import Resolution
from mobilette.data.images import Digest, LabelledImage
from mobilette.data.machine import check_memory, usable_cores
from mobilette.data.preprocess import Preprocess
from mobilette.data.store import ImageStore
from mobilette.data.workers import Decoder
from mobilette.limits import FRACTION, WORKERS
from mobilette.progress import SILENT, Advance, Reporter

# Starting a process costs about as much as decoding this many images.
WORTH_PROCESSES = 512


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images are read.

    Attributes:
        workers: decoding processes; ``None`` means one per usable core.
        max_unusable: the fraction of images that may be unusable.
        split: the split to measure on; ``None`` means ``val`` if there is one, else every image.
        include_trained: whether images that the model was trained on are measured, too.
        cache: the folder of decoded images (`mobilette.data.cache.images_cache`), if any.

    Raises:
        InputError: ``workers`` or ``max_unusable`` is out of range.
    """

    workers: int | None = None
    max_unusable: float = 0.1
    split: str | None = None
    include_trained: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            WORKERS.check("--workers", self.workers)
        FRACTION.check("--max-unusable", self.max_unusable)

    @property
    def processes(self) -> int:
        """Number of decoding processes."""
        return usable_cores() if self.workers is None else self.workers


IN_THIS_PROCESS = Reading(workers=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """The usable images of a sequence, in its order.

    Attributes:
        pixels: uint8 (N, C, H, W), contiguous.
        positions: int64 (N,), the index of each in the sequence.
        digests: SHA-256, in hex, of each.
        unusable: name and reason of each other image.
    """

    pixels: NDArray[np.uint8]
    positions: NDArray[np.int64]
    digests: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]


def read_images(
    images: Sequence[LabelledImage],
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    digest: Digest = "decoded pixels",
    reading: Reading = IN_THIS_PROCESS,
    reporter: Reporter = SILENT,
) -> Decoded:
    """Decode, hash and resize images; the result does not depend on ``reading.workers``.

    Few images, and images already in memory, are decoded in this process.

    Args:
        images: what to read.
        resolution: of the result, in pixels.
        preprocess: how to resize; mean and std are not applied.
        digest: what is hashed, the ``"decoded pixels"`` or the ``"files"``, where there are any.
        reading: its cache is not used.
        reporter: receives progress.

    Raises:
        InputError: the array does not fit in memory, too many images are unusable, or a worker
            died.
    """
    of_pixels = digest == "decoded pixels"
    decoder = Decoder(preprocess=preprocess, resolution=resolution, of_pixels=of_pixels)
    check_memory((len(images), *decoder.row_shape))
    store = ImageStore(
        images,
        decoder,
        reduced=[False] * len(images),
        workers=reading.processes,
        max_unusable=reading.max_unusable,
        remark=reporter.remark,
    )
    return read_all(store, on_progress=reporter.reading)


def read_all(store: ImageStore, *, on_progress: Advance) -> Decoded:
    """Read every image of a store into one array and close the store.

    Raises:
        InputError: as for `read_images`.
    """
    missing = store.missing()
    files = sum(not store.images[position].in_memory for position in missing)
    if store.workers < 2 or files < WORTH_PROCESSES:
        store.workers = 0
    pixels = np.empty((len(store), *store.row_shape), np.uint8)
    try:
        store.fill(range(len(store)), pixels, progress=on_progress)
    finally:
        store.close()
    store.check_unusable()
    positions = [position for position in range(len(store)) if position not in store.broken]
    for place, position in enumerate(positions):
        if place != position:
            pixels[place] = pixels[position]
    return Decoded(
        pixels=pixels[: len(positions)],
        positions=np.array(positions, np.int64),
        digests=tuple(store.digests[position].hex() for position in positions),
        unusable=store.unusable(),
    )

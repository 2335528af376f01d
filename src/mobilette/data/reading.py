"""Many images into one array: decoded, hashed and resized, in worker processes or here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.content import lies_in_file
from mobilette.data.images import LabelledImage
from mobilette.data.memory import check_memory
from mobilette.data.preprocess import Preprocess
from mobilette.data.store import ImageStore
from mobilette.data.workers import Decoder
from mobilette.limits import FRACTION

# Starting a process costs about as much as decoding this many images.
_WORTH_PROCESSES = 512

# Called with (images read, images in all).
LoadReport = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """The usable ones among some images, in their order.

    Attributes:
        pixels: uint8 of shape (N, C, R, R), contiguous.
        positions: which of the images these are, int64 of shape (N,).
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
    resolution: int,
    preprocess: Preprocess,
    workers: int = 0,
    max_unusable: float = 0.1,
    on_progress: LoadReport | None = None,
) -> Reading:
    """Decode, hash and resize images; the result does not depend on ``workers``.

    Args:
        images: what to read.
        resolution: side of the result, in pixels.
        preprocess: how to resize; its mean and std are not applied.
        workers: decode in this many processes if above 1; few images, and images that are in
            memory already, are always decoded here.
        max_unusable: the fraction of images that may be unusable.
        on_progress: called with the number of images done and their total.

    Raises:
        InputError: the array does not fit the memory, too many images are unusable, or a
            worker process died.
    """
    FRACTION.check("--max-unusable", max_unusable)
    decoder = Decoder(preprocess=preprocess, resolution=resolution, of_pixels=True)
    check_memory((len(images), *decoder.row_shape))
    store = ImageStore(
        images,
        decoder,
        reduced=[False] * len(images),
        workers=workers,
        max_unusable=max_unusable,
    )
    return read_all(store, on_progress=on_progress)


def read_all(store: ImageStore, *, on_progress: LoadReport | None = None) -> Reading:
    """Read every image of a store into one array and close the store.

    Raises:
        InputError: as for `read_images`.
    """
    missing = store.missing()
    files = sum(lies_in_file(store.images[position]) for position in missing)
    if store.workers < 2 or files < _WORTH_PROCESSES:
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
    return Reading(
        pixels=pixels[: len(positions)],
        positions=np.array(positions, np.int64),
        digests=tuple(store.digests[position].hex() for position in positions),
        unusable=store.unusable(),
    )

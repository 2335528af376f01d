"""Many pictures into one array: decoded, hashed and resized, in worker processes or here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.content import lies_in_file
from mobilette.data.memory import check_memory
from mobilette.data.pictures import Picture
from mobilette.data.preprocess import Preprocess
from mobilette.data.store import PictureStore
from mobilette.data.workers import Decoder
from mobilette.limits import FRACTION

# Starting a process costs about as much as decoding this many pictures.
_WORTH_PROCESSES = 512

# Called with (pictures read, pictures in all).
LoadReport = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """The usable ones among some pictures, in their order.

    Attributes:
        pixels: uint8 of shape (N, C, R, R), contiguous.
        positions: which of the pictures these are, int64 of shape (N,).
        digests: SHA-256, in hex, of each.
        unusable: name and reason of each other picture.
    """

    pixels: NDArray[np.uint8]
    positions: NDArray[np.int64]
    digests: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]


def read_pictures(
    pictures: Sequence[Picture],
    *,
    resolution: int,
    preprocess: Preprocess,
    workers: int = 0,
    max_unusable: float = 0.1,
    on_progress: LoadReport | None = None,
) -> Reading:
    """Decode, hash and resize pictures; the result does not depend on ``workers``.

    Args:
        pictures: what to read.
        resolution: side of the result, in pixels.
        preprocess: how to resize; its mean and std are not applied.
        workers: decode in this many processes if above 1; few pictures, and pictures that are in
            memory already, are always decoded here.
        max_unusable: the fraction of pictures that may be unusable.
        on_progress: called with the number of pictures done and their total.

    Raises:
        InputError: the array does not fit the memory, too many pictures are unusable, or a
            worker process died.
    """
    FRACTION.check("--max-unusable", max_unusable)
    decoder = Decoder(preprocess=preprocess, resolution=resolution, of_pixels=True)
    check_memory((len(pictures), *decoder.row_shape))
    store = PictureStore(
        pictures,
        decoder,
        reduced=[False] * len(pictures),
        workers=workers,
        max_unusable=max_unusable,
    )
    return read_all(store, on_progress=on_progress)


def read_all(store: PictureStore, *, on_progress: LoadReport | None = None) -> Reading:
    """Read every picture of a store into one array and close the store.

    Raises:
        InputError: as for `read_pictures`.
    """
    missing = store.missing()
    files = sum(lies_in_file(store.pictures[position]) for position in missing)
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

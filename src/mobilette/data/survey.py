"""One pass over a set: every image is decoded once, looked at and given to a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.arch.scale import Resolution
from mobilette.data.images import LabelledImage
from mobilette.data.looks import LOOK, Looks, look
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading
from mobilette.data.store import ImageStore
from mobilette.data.workers import Decoder
from mobilette.progress import SILENT, Reporter

_BLOCK = 512  # images in memory at once
_WORTH_PROCESSES = 512

# Takes pixels, uint8 (n, C, H, W), and returns a row of numbers for each, float32 (n, D).
Describe = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Surveyor(Decoder):
    """A decoder whose rows are the bytes of a network's input and of a `LOOK`."""

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """The shape of a row, (1, 1, bytes)."""
        return 1, 1, prod(self.input_shape) + LOOK.itemsize

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the network's input."""
        return super().row_shape

    def put(
        self, image: Image.Image, out: NDArray[np.uint8], full_size: tuple[int, int] | None = None
    ) -> None:
        """Write an image's row to ``out``."""
        pixels = self.preprocess.geometry(image, self.resolution, full_size=full_size)
        out[0, 0, : pixels.size] = pixels.ravel()
        out[0, 0, pixels.size :] = np.frombuffer(look(image).tobytes(), np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """The usable images of a set, in its order.

    Attributes:
        positions: int64 (N,), the index of each.
        looks: (N,) of `LOOK`.
        digests: SHA-256 of each one's decoded pixels.
        described: float32 (N, D), what the network said of each.
        unusable: why each other image cannot be used, by its index.
    """

    positions: NDArray[np.int64]
    looks: Looks
    digests: tuple[bytes, ...]
    described: NDArray[np.float32]
    unusable: dict[int, str]


def survey(
    images: Sequence[LabelledImage],
    describe: Describe,
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    reading: Reading,
    reporter: Reporter = SILENT,
) -> Survey:
    """Decode every image once; ``describe`` gets them as `Preprocess.geometry` makes them.

    Some hundred images are in memory at once.

    Raises:
        InputError: more images are unusable than ``reading`` allows.
    """
    decoder = Surveyor(preprocess=preprocess, resolution=resolution, of_pixels=True)
    files = sum(not image.in_memory for image in images)
    store = ImageStore(
        images,
        decoder,
        reduced=[False] * len(images),
        workers=reading.processes if files >= _WORTH_PROCESSES else 0,
        max_unusable=reading.max_unusable,
    )
    shape = decoder.input_shape
    looks, described, positions = [], [], []
    try:
        for first in range(0, len(images), _BLOCK):
            block = range(first, min(first + _BLOCK, len(images)))
            rows = np.zeros((len(block), *decoder.row_shape), np.uint8)
            store.fill(block, rows)
            usable = [place for place in block if place not in store.broken]
            flat = rows[[place - first for place in usable], 0, 0]
            looks.append(np.frombuffer(flat[:, prod(shape) :].tobytes(), LOOK))
            described.append(describe(flat[:, : prod(shape)].reshape(-1, *shape)))
            positions += usable
            reporter.reading(block.stop, len(images))
    finally:
        store.close()
    store.check_unusable()
    return Survey(
        positions=np.array(positions, np.int64),
        looks=np.concatenate(looks),
        digests=tuple(store.digests[position] for position in positions),
        described=np.concatenate(described),
        unusable=dict(store.broken),
    )

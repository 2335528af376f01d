"""How a set is read: in memory or streamed, by which digest, with which cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mobilette.data.cache import ImageCache, cache_key, open_cache
from mobilette.data.images import Digest, ImageSet, Stamp
from mobilette.data.machine import check_memory, fits_memory
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading, read_all
from mobilette.data.store import ImageStore
from mobilette.data.workers import Decoder
from mobilette.errors import InputError, one_of
from mobilette.progress import Advance, Remark, Reporter

# Fraction of a GPU's memory for training images; the rest is for training.
_DEVICE_SHARE = 0.5

LoaderKind = Literal["auto", "resident", "streamed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenSet:
    """A set of images ready to be read.

    Attributes:
        store: its images, split after split.
        splits: the split of each image, as given.
        streamed: whether pixels are read on demand.
        digest: `mobilette.data.dataset.Dataset.digest`.
        stamps: of each image; empty where some are in memory already.
    """

    store: ImageStore
    splits: tuple[str, ...]
    streamed: bool
    digest: Digest
    stamps: tuple[Stamp, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundRows:
    """The usable images of a set, in its order.

    Attributes:
        pixels: uint8 (N, C, R, R); ``None`` where they stay in the ``store``.
        store: all images of the set.
        positions: int64 (N,), position of each in the store.
        digests: what identifies each; inside a split they are sorted by it.
    """

    pixels: NDArray[np.uint8] | None
    store: ImageStore
    positions: NDArray[np.int64]
    digests: tuple[str, ...]


def open_set(
    images: ImageSet,
    *,
    resolution: int,
    preprocess: Preprocess,
    reading: Reading,
    reporter: Reporter,
    loader: LoaderKind,
    digest: Digest | None,
    device_memory: int | None,
    processes: int,
) -> OpenSet:
    """Choose how to read a set; arguments as for `mobilette.data.dataset.load_dataset`.

    Raises:
        InputError: the set does not fit in memory and cannot be streamed, or lacks this ``digest``.
    """
    one_of(loader, get_args(LoaderKind), "loader")
    given = [(split, image) for split, some in images.splits.items() for image in some]
    chosen = [image for _, image in given]
    in_files = not any(image.in_memory for image in chosen)
    shape = (len(given), preprocess.channels, resolution, resolution)
    if loader == "auto":
        train = len(images.splits.get("train") or images.splits["all"])
        on_device = device_memory is None or (
            train * math.prod(shape[1:]) <= _DEVICE_SHARE * device_memory
        )
        streamed = not (on_device and fits_memory(processes * math.prod(shape)))
    else:
        streamed = loader == "streamed"
    streamed = streamed and in_files
    if not streamed:
        check_memory(shape)
    rule = _rule(images, digest, in_files=in_files, streamed=streamed)
    of_pixels = rule == "decoded pixels"
    reduced = [split == "train" and not of_pixels for split, _ in given]
    stamps = tuple(image.stamp() for image in chosen) if in_files else ()
    rows = None
    if reading.cache is not None and in_files:
        key = cache_key(
            stamps,
            resolution=resolution,
            preprocess=preprocess,
            reduced=reduced,
            digest="decoded pixels" if of_pixels else "files",
        )
        rows = _open_cache(reading.cache, key, shape, images.name, reporter.remark)
    store = ImageStore(
        chosen,
        Decoder(preprocess=preprocess, resolution=resolution, of_pixels=of_pixels),
        reduced=reduced,
        cache=rows,
        workers=reading.processes,
        max_unusable=reading.max_unusable,
        remark=reporter.remark,
    )
    return OpenSet(
        store=store,
        splits=tuple(split for split, _ in given),
        streamed=streamed,
        digest=rule,
        stamps=stamps,
    )


def find_rows(opened: OpenSet, *, on_progress: Advance) -> FoundRows:
    """Read a set or, if it is streamed, as much of it as its digests need.

    Raises:
        InputError: too many images are unusable, or a worker process died.
    """
    store, pixels = opened.store, None
    if not opened.streamed:
        decoded = read_all(store, on_progress=on_progress)
        pixels, positions = decoded.pixels, decoded.positions
    else:
        missing = store.missing()
        if opened.digest != "names and sizes":
            try:
                store.scan(missing, progress=on_progress)
                store.check_unusable()
            except BaseException:
                store.close()
                raise
            store.forget_failures()
        usable = [position for position in range(len(store)) if position not in store.broken]
        positions = np.array(usable, np.int64)
    if opened.digest == "names and sizes":
        digests = [f"{store.images[at].name}\0{opened.stamps[at].size}" for at in positions]
    else:
        digests = [store.digests[at].hex() for at in positions.tolist()]
    return FoundRows(pixels=pixels, store=store, positions=positions, digests=tuple(digests))


def _rule(images: ImageSet, digest: Digest | None, *, in_files: bool, streamed: bool) -> Digest:
    by_pixels = "all" in images.splits or not in_files
    if digest is None:
        if by_pixels:
            return "decoded pixels"
        return "names and sizes" if streamed else "files"
    one_of(digest, get_args(Digest), "digest")
    if by_pixels and digest != "decoded pixels":
        raise InputError(
            f"{images.name}: digest {digest!r} needs images in files that come divided into "
            "train/ and val/; here it is 'decoded pixels'"
        )
    return digest


def _open_cache(
    root: Path, key: str, shape: tuple[int, ...], source: str, remark: Remark
) -> ImageCache | None:
    cache = open_cache(root, key, shape=shape, source=source)
    if isinstance(cache, ImageCache):
        return cache
    remark(f"decoded images are not kept for the next time: {cache}")
    return None

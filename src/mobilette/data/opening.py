"""How a set is read: in memory or streamed, by which digest, with which cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.scale import Resolution, size_of
from mobilette.data.cache import ImageCache, cache_key, open_cache
from mobilette.data.images import Digest, ImageSet, LabelledImage
from mobilette.data.machine import check_memory, fits_memory
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading, read_all
from mobilette.data.store import ImageStore
from mobilette.data.workers import Decoder
from mobilette.errors import InputError, one_of
from mobilette.progress import Advance, Reporter

# Fraction of a GPU's memory for training images; the rest is for training.
_DEVICE_SHARE = 0.5

LoaderKind = Literal["auto", "resident", "streamed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundRows:
    """The usable images of a set, in its order.

    Attributes:
        pixels: uint8 (N, C, H, W); ``None`` where they stay in the ``store``.
        store: all images of the set, split after split.
        positions: int64 (N,), position of each in the store.
        images: the N images.
        splits: the split of each, as given.
        digests: what identifies each; inside a split they are sorted by it.
        digest: `mobilette.data.dataset.Dataset.digest`.
    """

    pixels: NDArray[np.uint8] | None
    store: ImageStore
    positions: NDArray[np.int64]
    images: tuple[LabelledImage, ...]
    splits: tuple[str, ...]
    digests: tuple[str, ...]
    digest: Digest


def find_rows(
    images: ImageSet,
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    reading: Reading,
    reporter: Reporter,
    loader: LoaderKind,
    digest: Digest | None,
    device_memory: int | None,
    processes: int,
) -> FoundRows:
    """Read a set or, if it is streamed, as much of it as its digests need.

    The arguments are those of `mobilette.data.dataset.load_dataset`.

    Raises:
        InputError: the set does not fit in memory and cannot be streamed, or lacks this ``digest``,
            too many images are unusable, or a worker process died.
    """
    one_of(loader, get_args(LoaderKind), "loader")
    splits = [split for split, some in images.splits.items() for _ in some]
    chosen = [image for some in images.splits.values() for image in some]
    in_files = not any(image.in_memory for image in chosen)
    shape = (len(chosen), preprocess.channels, *size_of(resolution))
    streamed = loader == "streamed"
    if loader == "auto":
        train = len(images.splits.get("train") or images.splits["all"])
        on_device = device_memory is None or (
            train * math.prod(shape[1:]) <= _DEVICE_SHARE * device_memory
        )
        streamed = not (on_device and fits_memory(processes * math.prod(shape)))
    streamed = streamed and in_files
    if not streamed:
        check_memory(shape)
    rule = _rule(images, digest, in_files=in_files, streamed=streamed)
    of_pixels = rule == "decoded pixels"
    reduced = [split == "train" and not of_pixels for split in splits]
    stamps = tuple(image.stamp() for image in chosen) if in_files else ()
    cache = None
    if reading.cache is not None and in_files:
        key = cache_key(
            stamps,
            resolution=resolution,
            preprocess=preprocess,
            reduced=reduced,
            digest="decoded pixels" if of_pixels else "files",
        )
        opened = open_cache(reading.cache, key, shape=shape, source=images.name)
        if isinstance(opened, ImageCache):
            cache = opened
        else:
            reporter.remark(f"decoded images are not cached: {opened}")
    store = ImageStore(
        chosen,
        Decoder(preprocess=preprocess, resolution=resolution, of_pixels=of_pixels),
        reduced=reduced,
        cache=cache,
        workers=reading.processes,
        max_unusable=reading.max_unusable,
        remark=reporter.remark,
    )
    pixels, positions = _read(store, streamed=streamed, rule=rule, on_progress=reporter.reading)
    if rule == "names and sizes":
        digests = [f"{chosen[at].name}\0{stamps[at].size}" for at in positions]
    else:
        digests = [store.digests[at].hex() for at in positions.tolist()]
    return FoundRows(
        pixels=pixels,
        store=store,
        positions=positions,
        images=tuple(chosen[at] for at in positions),
        splits=tuple(splits[at] for at in positions),
        digests=tuple(digests),
        digest=rule,
    )


def _read(
    store: ImageStore, *, streamed: bool, rule: Digest, on_progress: Advance
) -> tuple[NDArray[np.uint8] | None, NDArray[np.int64]]:
    """Return the pixels, unless ``streamed``, and the positions of usable images."""
    if not streamed:
        decoded = read_all(store, on_progress=on_progress)
        return decoded.pixels, decoded.positions
    missing = store.missing()
    if rule != "names and sizes":
        try:
            store.fill(missing, None, progress=on_progress)
            store.check_unusable()
        except BaseException:
            store.close()
            raise
        store.forget_failures()
    usable = [position for position in range(len(store)) if position not in store.broken]
    return None, np.array(usable, np.int64)


def _rule(images: ImageSet, digest: Digest | None, *, in_files: bool, streamed: bool) -> Digest:
    by_pixels = "all" in images.splits or not in_files
    if digest is None:
        if by_pixels:
            return "decoded pixels"
        return "names and sizes" if streamed else "files"
    one_of(digest, get_args(Digest), "digest")
    if by_pixels and digest != "decoded pixels":
        raise InputError(
            f"{images.name}: digest {digest!r} needs image files divided into train/ and val/; use "
            "'decoded pixels'"
        )
    return digest

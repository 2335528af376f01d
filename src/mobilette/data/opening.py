"""How a set will be read: in memory or streamed, what identifies its images, which cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mobilette.data.cache import ImageCache, cache_key, open_cache
from mobilette.data.images import Digest, ImageSet, LabelledImage, Stamp, lies_in_file, stamp
from mobilette.data.machine import check_memory, fits_memory
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading
from mobilette.data.store import ImageStore
from mobilette.data.workers import Decoder
from mobilette.errors import InputError, one_of
from mobilette.progress import Remark, Reporter

# The images to train on may take this part of a GPU's memory; the rest is for the training.
_DEVICE_SHARE = 0.5

LoaderKind = Literal["auto", "resident", "streamed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenSet:
    """A set of images that can be read.

    Attributes:
        store: its images, split after split.
        splits: the split of each, as the set has it.
        streamed: whether the pixels stay where they are until they are asked for.
        digest: `mobilette.data.dataset.Dataset.digest`.
        stamps: of each image; empty where some are in memory already.
    """

    store: ImageStore
    splits: tuple[str, ...]
    streamed: bool
    digest: Digest
    stamps: tuple[Stamp, ...]


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
    """Choose how to read a set; the arguments are those of `mobilette.data.dataset.load_dataset`.

    Raises:
        InputError: the set does not fit the memory and cannot be streamed or is not to be, or it
            cannot have this ``digest``.
    """
    given = [(split, image) for split, all_ in images.splits.items() for image in all_]
    chosen = [image for _, image in given]
    in_files = all(lies_in_file(image) for image in chosen)
    shape = (len(given), preprocess.channels, resolution, resolution)
    streamed = in_files and _is_streamed(images, shape, loader, device_memory, processes)
    if not streamed:
        check_memory(shape)
    rule = _rule(images, digest, in_files=in_files, streamed=streamed)
    of_pixels = rule == "decoded pixels"
    reduced = [split == "train" and not of_pixels for split, _ in given]
    stamps = tuple(stamp(image) for image in chosen) if in_files else ()
    rows = None
    if reading.cache is not None and in_files:
        key = cache_key(
            stamps,
            resolution=resolution,
            preprocess=preprocess,
            reduced=reduced,
            digest="decoded pixels" if of_pixels else "files",
        )
        rows = _cache(reading.cache, key, shape, images.name, reporter.remark)
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


def _is_streamed(
    images: ImageSet,
    shape: tuple[int, int, int, int],
    loader: LoaderKind,
    device_memory: int | None,
    processes: int,
) -> bool:
    one_of(loader, get_args(LoaderKind), "loader")
    if loader != "auto":
        return loader == "streamed"
    if device_memory is not None:
        train: Sequence[LabelledImage] = images.splits.get("train") or images.splits["all"]
        if len(train) * math.prod(shape[1:]) > _DEVICE_SHARE * device_memory:
            return True
    return not fits_memory(processes * math.prod(shape))


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


def _cache(
    root: Path, key: str, shape: tuple[int, ...], source: str, remark: Remark
) -> ImageCache | None:
    cache = open_cache(root, key, shape=shape, source=source)
    if isinstance(cache, ImageCache):
        return cache
    remark(f"decoded images are not kept for the next time: {cache}")
    return None

"""The splits of a set: which images are held out, and which are measured on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.formats import UnusableImage
from mobilette.data.found import FoundRows
from mobilette.data.images import ImageSet, Label, LabelledImage, Labels, label_array, pixel_sha256
from mobilette.data.store import Pixels, StreamedPixels
from mobilette.errors import one_of


def held_out_fifth(
    *, labels: Sequence[Label], digests: Sequence[str], names: Sequence[str]
) -> NDArray[np.bool_]:
    """Choose the images of a flat set that are held out.

    Per class, the images are sorted by the SHA-256 of their decoded pixels, and the first ⌈n/5⌉
    of n are held out; all images of a multi-label set count as one class. ``names`` only breaks
    ties between copies of one image.

    Returns:
        bool of shape (N,), true where the image is held out.
    """
    classes: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        classes[-1 if isinstance(label, tuple) else label].append(index)
    held_out = np.zeros(len(labels), np.bool_)
    for indices in classes.values():
        indices.sort(key=lambda index: (digests[index], names[index]))
        held_out[indices[: -(-len(indices) // 5)]] = True
    return held_out


def choose_split(images: ImageSet, split: str | None) -> tuple[str, tuple[LabelledImage, ...]]:
    """Choose the images to measure on.

    Without a ``split`` that is ``val`` where the set has one, else every image; for a set that
    comes without files (``digits``) the held-out fifth, since nobody can move files aside. The
    ``train`` and ``val`` of a flat set are made by the rule, for which every image is decoded;
    images that cannot be are kept in the result, so that they are counted when it is read.

    Returns:
        The name of the split (``"all"`` for every image) and its images.

    Raises:
        InputError: the set has no such split.
    """
    flat = images.splits.get("all")
    if split is None:
        if flat is None:
            split = "val"
        else:
            split = "all" if not all(item.in_memory for item in flat) else "val"
    available = list(images.splits) + (["train", "val"] if flat is not None else [])
    one_of(split, available, f"{images.name}: split")
    if split in images.splits or flat is None:
        return split, images.splits[split]
    digests = [_digest(image) for image in flat]
    readable = [index for index, digest in enumerate(digests) if digest is not None]
    held_out = held_out_fifth(
        labels=[flat[index].label for index in readable],
        digests=[digest for digest in digests if digest is not None],
        names=[flat[index].name for index in readable],
    )
    other = {
        index
        for index, held in zip(readable, held_out, strict=True)
        if bool(held) != (split == "val")
    }
    return split, tuple(image for index, image in enumerate(flat) if index not in other)


def _digest(image: LabelledImage) -> str | None:
    try:
        return pixel_sha256(image.open())
    except UnusableImage:
        return None


_ORDER = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split.

    Attributes:
        pixels: uint8 of shape (N, C, R, R); three channels are R, G, B. An array in memory,
            contiguous, or what decodes rows when they are asked for.
        labels: int64 of shape (N,), indices into the classes; of a multi-label set uint8 of shape
            (N, classes), 1 where a class applies.
        names: the N images' names.
        shards: int64 of shape (N,), the tar file that each image lies in; ``None`` where the
            images do not lie in tar files.
    """

    pixels: Pixels
    labels: Labels
    names: tuple[str, ...]
    shards: NDArray[np.int64] | None = None

    def usable(self) -> NDArray[np.bool_]:
        """Return, bool (N,), which images count; streamed ones may break as the run goes on."""
        if isinstance(self.pixels, StreamedPixels):
            return self.pixels.usable()
        return np.ones(len(self.names), np.bool_)


def assign(
    given: Sequence[str], usable: Sequence[LabelledImage], digests: Sequence[str]
) -> list[str]:
    """Return the split of every usable image; ``"all"`` is divided by the rule."""
    assigned = list(given)
    flat = [index for index, split in enumerate(assigned) if split == "all"]
    held_out = held_out_fifth(
        labels=[usable[index].label for index in flat],
        digests=[digests[index] for index in flat],
        names=[usable[index].name for index in flat],
    )
    for index, held in zip(flat, held_out, strict=True):
        assigned[index] = "val" if held else "train"
    return assigned


def divide(
    found: FoundRows, chosen: Sequence[LabelledImage], assigned: Sequence[str], *, num_classes: int
) -> dict[str, Split]:
    """Return the images cut into splits; of an array, each is one contiguous piece.

    Inside a split they are ordered by their digests: by content, a run that is resumed after
    files were renamed sees them in the same order.
    """
    ranks = np.array([_ORDER.index(split) for split in assigned])
    order = np.array(
        sorted(
            range(len(chosen)),
            key=lambda index: (ranks[index], found.digests[index], chosen[index].name),
        )
    )
    if found.pixels is not None:
        _reorder(found.pixels, order)
    ends = np.cumsum(np.bincount(ranks, minlength=len(_ORDER)))
    starts = (0, *ends[:-1])
    return {
        split: make_split(
            _rows(found, order, start, end),
            [chosen[index] for index in order[start:end]],
            num_classes=num_classes,
        )
        for split, start, end in zip(_ORDER, starts, ends, strict=True)
        if end > start
    }


def make_split(pixels: Pixels, images: Sequence[LabelledImage], *, num_classes: int) -> Split:
    """Return the split of these ``pixels``, the rows of ``images``.

    ``num_classes`` counts for multi-label images.
    """
    shards = [image.shard for image in images if image.shard is not None]
    return Split(
        pixels=pixels,
        labels=label_array([image.label for image in images], num_classes=num_classes),
        names=tuple(image.name for image in images),
        shards=np.array(shards, np.int64) if shards else None,
    )


def _rows(found: FoundRows, order: NDArray[np.intp], start: int, end: int) -> Pixels:
    if found.pixels is not None:
        return found.pixels[start:end]
    return StreamedPixels(found.store, found.positions[order[start:end]])


def _reorder(rows: NDArray[np.uint8], order: NDArray[np.intp]) -> None:
    """Do ``rows[:] = rows[order]`` without the second copy that would double the memory."""
    order = order.copy()
    for start in range(len(order)):
        if order[start] == start:
            continue
        first, here = rows[start].copy(), start
        while order[here] != start:
            there = int(order[here])
            rows[here] = rows[there]
            order[here], here = here, there
        rows[here] = first
        order[here] = here

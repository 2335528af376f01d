"""`Split`: the images of one split, and how a set is cut into several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.found import FoundRows
from mobilette.data.images import LabelledImage
from mobilette.data.labels import Labels, label_array
from mobilette.data.splitting import held_out_fifth
from mobilette.data.streaming import Pixels, StreamedPixels

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

"""Splits of a set: dividing it, finding copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import SPLITS, LabelledImage, Labels, label_array
from mobilette.data.opening import FoundRows
from mobilette.data.store import Pixels, StreamedPixels

# Images that a remark names.
_NAMED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split.

    Attributes:
        pixels: uint8 (N, C, H, W), channels R, G, B; a contiguous array in memory, or rows decoded
            on demand.
        labels: int64 (N,), class indices; in a multi-label set uint8 (N, classes), 1 where a class
            applies.
        names: the N images' names.
        shards: int64 (N,), the tar file of each image; ``None`` outside tar files.
    """

    pixels: Pixels
    labels: Labels
    names: tuple[str, ...]
    shards: NDArray[np.int64] | None = None

    def usable(self) -> NDArray[np.bool_]:
        """Return, bool (N,), which images count; streamed ones may turn out broken during a run."""
        if isinstance(self.pixels, StreamedPixels):
            return self.pixels.usable()
        return np.ones(len(self.names), np.bool_)


def divide(found: FoundRows, assigned: Sequence[str], *, num_classes: int) -> dict[str, Split]:
    """Return the images by split; pixels in memory are reordered, so each split is contiguous.

    Inside a split, images are sorted by digest, that is by content, so that a resumed run sees the
    same order even after files were renamed.
    """
    ranks = np.array([SPLITS.index(split) for split in assigned])
    keys = [
        (rank, digest, image.name)
        for rank, digest, image in zip(ranks.tolist(), found.digests, found.images, strict=True)
    ]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    if found.pixels is not None:
        _reorder(found.pixels, order)
    ends = np.cumsum(np.bincount(ranks, minlength=len(SPLITS)))
    splits = {}
    for split, start, end in zip(SPLITS, (0, *ends[:-1]), ends, strict=True):
        if end > start:
            pixels: Pixels
            if found.pixels is not None:
                pixels = found.pixels[start:end]
            else:
                pixels = StreamedPixels(found.store, found.positions[order[start:end]])
            some = [found.images[index] for index in order[start:end]]
            splits[split] = make_split(pixels, some, num_classes=num_classes)
    return splits


def make_split(pixels: Pixels, images: Sequence[LabelledImage], *, num_classes: int) -> Split:
    """Return the split of these ``pixels``, the rows of ``images``.

    ``num_classes`` matters for multi-label images only.
    """
    shards = [image.shard for image in images if image.shard is not None]
    return Split(
        pixels=pixels,
        labels=label_array([image.label for image in images], num_classes=num_classes),
        names=tuple(image.name for image in images),
        shards=np.array(shards, np.int64) if shards else None,
    )


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Images that occur several times in a set where they should not.

    Attributes:
        in_train: by split, the names of images that are also in ``train``.
        in_val: names of ``test`` images that are also in ``val``, which chose the weights.
        in_classes: the names of one image in several classes, per image.
    """

    in_train: Mapping[str, tuple[str, ...]]
    in_val: tuple[str, ...]
    in_classes: tuple[tuple[str, ...], ...]

    def remarks(self) -> tuple[str, ...]:
        """Return what users of the set should know, one line each."""
        said = [
            f"{len(names):,} images of {split} are also in train: {some_names(names)}"
            for split, names in self.in_train.items()
        ]
        if self.in_val:
            said.append(
                f"{len(self.in_val):,} images of test are also in val: {some_names(self.in_val)}"
            )
        if self.in_classes:
            same = [some_names(names, between=" = ") for names in self.in_classes]
            said.append(f"{len(same):,} images are in several classes: {some_names(same)}")
        return tuple(said)


def find_copies(found: FoundRows, assigned: Sequence[str]) -> Copies | None:
    """Find images in several splits or classes; ``None`` if some images were not read yet.

    Images with equal digests (every pixel, or every byte of the file) are the same.
    """
    images = found.images
    digests = [found.store.digests.get(position) for position in found.positions.tolist()]
    if None in digests:
        return None
    repeated = {digest for digest, number in Counter(digests).items() if number > 1}
    groups: dict[bytes | None, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest in repeated:
            groups.setdefault(digest, []).append(row)
    in_train: dict[str, list[str]] = {}
    in_val: list[str] = []
    in_classes = []
    for rows in groups.values():
        splits = {assigned[row] for row in rows}
        if "train" in splits:
            for row in rows:
                if assigned[row] != "train":
                    in_train.setdefault(assigned[row], []).append(images[row].name)
        elif "val" in splits:
            in_val += [images[row].name for row in rows if assigned[row] == "test"]
        if len({images[row].label for row in rows}) > 1:
            in_classes.append(tuple(images[row].name for row in rows))
    return Copies(
        in_train={split: tuple(names) for split, names in sorted(in_train.items())},
        in_val=tuple(in_val),
        in_classes=tuple(in_classes),
    )


def some_names(names: Sequence[str], *, between: str = ", ") -> str:
    """Return the first three of ``names``, with dots if there are more."""
    return between.join([*names[:_NAMED], *["..."] * (len(names) > _NAMED)])


def _reorder(rows: NDArray[np.uint8], order: NDArray[np.intp]) -> None:
    """Do ``rows[:] = rows[order]`` without a second copy in memory."""
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

"""Splits of a set: dividing it, choosing images to measure on, finding copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.formats import UnusableImage
from mobilette.data.images import (
    SPLITS,
    ImageSet,
    Label,
    LabelledImage,
    Labels,
    label_array,
    pixel_sha256,
)
from mobilette.data.opening import FoundRows
from mobilette.data.store import Pixels, StreamedPixels
from mobilette.errors import one_of

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


def held_out_fifth(
    *, labels: Sequence[Label], digests: Sequence[str], names: Sequence[str]
) -> NDArray[np.bool_]:
    """Choose the held-out images of a flat set, bool (N,).

    Per class, the images are sorted by the SHA-256 of their decoded pixels, and the first ⌈n/5⌉ of
    n are held out; a multi-label set counts as one class. ``names`` only breaks ties between copies
    of an image.
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

    By default these are ``val`` if the set has one, else every image; for a set without files
    (``digits``) the held-out fifth, since files cannot be set aside. The ``train`` and
    ``val`` of a flat set follow the rule, which needs every image decoded; undecodable images stay
    in the result, so that they are counted when it is read.

    Returns:
        The name of the split (``"all"`` for every image) and its images.

    Raises:
        InputError: the set has no such split.
    """
    flat = images.splits.get("all")
    if split is None:
        split = "val" if flat is None or all(item.in_memory for item in flat) else "all"
    available = list(images.splits) + (["train", "val"] if flat is not None else [])
    one_of(split, available, f"{images.name}: split")
    if split in images.splits or flat is None:
        return split, images.splits[split]
    digests = {index: digest for index, item in enumerate(flat) if (digest := _digest(item))}
    held_out = held_out_fifth(
        labels=[flat[index].label for index in digests],
        digests=list(digests.values()),
        names=[flat[index].name for index in digests],
    )
    other = {
        index
        for index, held in zip(digests, held_out, strict=True)
        if bool(held) != (split == "val")
    }
    return split, tuple(image for index, image in enumerate(flat) if index not in other)


def assign(found: FoundRows) -> list[str]:
    """Return the split of every image; ``"all"`` is divided by `held_out_fifth`."""
    assigned = list(found.splits)
    flat = [index for index, split in enumerate(assigned) if split == "all"]
    held_out = held_out_fifth(
        labels=[found.images[index].label for index in flat],
        digests=[found.digests[index] for index in flat],
        names=[found.images[index].name for index in flat],
    )
    for index, held in zip(flat, held_out, strict=True):
        assigned[index] = "val" if held else "train"
    return assigned


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
            f"{len(names):,} images of {split} are also in train: {_some(names)}"
            for split, names in self.in_train.items()
        ]
        if self.in_val:
            said.append(
                f"{len(self.in_val):,} images of test are also in val: {_some(self.in_val)}"
            )
        if self.in_classes:
            same = [_some(names, between=" = ") for names in self.in_classes]
            said.append(f"{len(same):,} images are in several classes: {_some(same)}")
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


def _some(names: Sequence[str], *, between: str = ", ") -> str:
    return between.join([*names[:_NAMED], *["..."] * (len(names) > _NAMED)])


def _digest(image: LabelledImage) -> str | None:
    try:
        return pixel_sha256(image.open())
    except UnusableImage:
        return None


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

"""Near duplicates: of a flat set they stay on one side, across given splits they are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mobilette.data.duplicates import (
    Thumbnails,
    joined,
    near_duplicate_groups,
    near_duplicates,
    row_thumbnails,
)
from mobilette.data.opening import FoundRows
from mobilette.data.splits import some_names
from mobilette.data.store import StreamedPixels
from mobilette.progress import Remark

# Comparing takes N² time: about that of decoding for so many.
MOST = 10_000
_AT_ONCE = 512


def alike_groups(found: FoundRows, *, mirrored: bool, remark: Remark) -> list[int] | None:
    """Return a group per image, equal for copies and near duplicates; ``None`` if there are none.

    Images that are pixels already are of a named set or from a program, and are not compared.
    """
    thumbnails = _thumbnails(found, remark)
    if thumbnails is None:
        return None
    count = len(thumbnails)
    near = near_duplicate_groups(thumbnails, mirrored=mirrored).tolist()
    first: dict[str, int] = {}
    copies = [(first.setdefault(digest, row), row) for row, digest in enumerate(found.digests)]
    groups = joined([*copies, *zip(near, range(count), strict=True)], count=count).tolist()
    several = sum(size for size in Counter(groups).values() if size > 1)
    if not several:
        return None
    remark(f"{several:,} images are copies or near duplicates of others and stay on their side")
    return [int(group) for group in groups]


def alike_across(
    found: FoundRows, splits: Sequence[str], *, mirrored: bool, remark: Remark
) -> None:
    """Say how many images held out are near duplicates of training images.

    ``splits`` is that of each image. Copies are not meant: `mobilette.data.splits.find_copies`
    names them. Nothing is looked for in a streamed set, which would have to be read for it.
    """
    held = {split for split in splits if split != "train"}
    thumbnails = _thumbnails(found, remark) if held and found.pixels is not None else None
    if thumbnails is None:
        return
    alike: dict[str, set[str]] = {split: set() for split in sorted(held)}
    for pair in near_duplicates(thumbnails, mirrored=mirrored):
        both = (pair.first, pair.second)
        sides = {splits[row] for row in both}
        if len(sides) == 2 and "train" in sides and len({found.digests[row] for row in both}) == 2:
            (row,) = (row for row in both if splits[row] != "train")
            alike[splits[row]].add(found.images[row].name)
    for split, names in alike.items():
        if names:
            remark(
                f"{len(names):,} images of {split} are near duplicates of images in train, which "
                f"'mobilette audit' shows: {some_names(sorted(names))}"
            )


def _thumbnails(found: FoundRows, remark: Remark) -> Thumbnails | None:
    count = len(found.images)
    if any(image.in_memory for image in found.images):
        return None
    if count > MOST:
        remark(
            f"near duplicates are not looked for among more than {MOST:,} images; 'mobilette "
            "audit' does"
        )
        return None
    pixels = found.pixels
    source = StreamedPixels(found.store, found.positions) if pixels is None else pixels
    parts = [row_thumbnails(source[at : at + _AT_ONCE]) for at in range(0, count, _AT_ONCE)]
    return np.concatenate(parts)


def merged_groups(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return groups so large that both ``one`` and ``other`` are whole in them."""
    pairs = []
    for numbers in (one, other):
        first: dict[int, int] = {}
        pairs += [(first.setdefault(group, row), row) for row, group in enumerate(numbers)]
    return [int(group) for group in joined(pairs, count=len(one))]

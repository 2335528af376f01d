"""Near duplicates in a flat set, which stay on one side when it is divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mobilette.data.duplicates import joined, near_duplicate_groups, row_thumbnails
from mobilette.data.opening import FoundRows
from mobilette.data.store import StreamedPixels
from mobilette.progress import Remark

# Comparing takes N² time: about that of decoding for so many.
MOST = 10_000
_AT_ONCE = 512


def alike_groups(found: FoundRows, *, mirrored: bool, remark: Remark) -> list[int] | None:
    """Return a group per image, equal for copies and near duplicates; ``None`` if there are none.

    Images that are pixels already are of a named set or from a program, and are not compared.
    """
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
    near = near_duplicate_groups(np.concatenate(parts), mirrored=mirrored).tolist()
    first: dict[str, int] = {}
    copies = [(first.setdefault(digest, row), row) for row, digest in enumerate(found.digests)]
    groups = joined([*copies, *zip(near, range(count), strict=True)], count=count).tolist()
    several = sum(size for size in Counter(groups).values() if size > 1)
    if not several:
        return None
    remark(f"{several:,} images are copies or near duplicates of others and stay on their side")
    return [int(group) for group in groups]


def merged_groups(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return groups so large that both ``one`` and ``other`` are whole in them."""
    pairs = []
    for numbers in (one, other):
        first: dict[int, int] = {}
        pairs += [(first.setdefault(group, row), row) for row, group in enumerate(numbers)]
    return [int(group) for group in joined(pairs, count=len(one))]

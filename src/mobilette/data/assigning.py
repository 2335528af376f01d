"""Which split each image of a set is in: as given, by the rule, as it was before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilette.data.alike import merged_groups
from mobilette.data.digests import NONE, Digests, Trained, first_bits
from mobilette.data.division import FIFTH, Division, hold_out
from mobilette.data.groups import group_numbers
from mobilette.data.images import Digest, LabelledImage
from mobilette.data.opening import FoundRows

# Returns the groups of near duplicates among images, `alike_groups`.
Alike = Callable[[FoundRows], Sequence[int] | None]


def assign(
    found: FoundRows,
    known: Trained,
    division: Division,
    alike: Alike | None,
) -> list[str]:
    """Return the split of every image.

    A flat set is divided by `hold_out`; for ``test``, if the ``division`` asks for it, ``train`` of
    a divided set is, too. Where it is ``known`` how an image was used before, that is kept.
    ``alike`` returns groups of near duplicates, if they are needed.
    """
    assigned = list(found.splits)
    test, flat = division.test, "all" in assigned
    rows = [row for row, split in enumerate(assigned) if split == ("all" if flat else "train")]
    parts = [name for name in ("test", "val") if name in known.parts and (flat or name == "test")]
    if not (flat or test or parts):
        return assigned
    images = [found.images[row] for row in rows]
    digests = [found.digests[row] for row in rows]
    groups = group_numbers(images)
    splits = ["" for _ in rows]
    for name in parts:
        left = [place for place, split in enumerate(splits) if not split]
        names = known.names.get(name, frozenset())
        some, own = [images[place] for place in left], [digests[place] for place in left]
        for place in _members(known.parts[name], some, own, found.digest, names):
            splits[left[place]] = name
    for place in np.flatnonzero(known.images.among(images, digests, found.digest)[0]).tolist():
        splits[place] = splits[place] or "train"
    near = alike(found) if alike is not None and flat and "" in splits else None
    if near is not None:
        near = [near[row] for row in rows]
        groups = groups if groups is None else merged_groups(groups, near)
    for numbers in (groups, near):
        if numbers is not None:
            _follow(splits, numbers)
    for name, part in (("test", test), ("val", (FIFTH, 0) if flat else None)):
        left = [place for place, split in enumerate(splits) if not split]
        if part is not None and left:
            held = hold_out(
                labels=[images[place].label for place in left],
                digests=[digests[place] for place in left],
                names=[images[place].name for place in left],
                part=part[0],
                index=part[1],
                groups=None if groups is None else [groups[place] for place in left],
                alike=None if near is None else [near[place] for place in left],
            )
            for place in np.array(left)[held].tolist():
                splits[place] = name
    for row, split in zip(rows, splits, strict=True):
        assigned[row] = split or "train"
    return assigned


def _members(
    part: Digests,
    images: Sequence[LabelledImage],
    digests: Sequence[str],
    kind: Digest,
    names: Collection[str],
) -> list[int]:
    """Return the images of a recorded part; of several copies as many, if possible by ``names``."""
    there = np.flatnonzero(part.among(images, digests, kind)[0]).tolist()
    if kind != part.kind:
        return there
    there.sort(
        key=lambda place: (digests[place], images[place].name not in names, images[place].name)
    )
    counts = Counter((part.pixels if part.kind == "decoded pixels" else part.files).tolist())
    bits, found = first_bits(digests[place] for place in there).tolist(), []
    for place, own in zip(there, bits, strict=True):
        counts[own] -= 1
        if counts[own] >= 0:
            found.append(place)
    return found


def _follow(splits: list[str], groups: Sequence[int]) -> None:
    """Put each image whose use is open on the side of its group."""
    sides: dict[int, str] = {}
    for split, group in zip(splits, groups, strict=True):
        if split and sides.get(group) != "train":
            sides[group] = split
    for place, group in enumerate(groups):
        splits[place] = splits[place] or sides.get(group, "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Assigned:
    """Images with their splits.

    Attributes:
        found: the images.
        splits: the split of each.
        moved: those that would have been held out, had no earlier run been trained on them.
    """

    found: FoundRows
    splits: list[str]
    moved: Digests


def without_seen(found: FoundRows, splits: Sequence[str], seen: Digests) -> Assigned:
    """Hold out no image that an earlier run was trained on (``seen``).

    It is left out of a given ``val`` or ``test``; `assign` keeps those of a flat set in ``train``.
    """
    held = [row for row, split in enumerate(found.splits) if split in ("val", "test")]
    if not (len(seen) and held):
        return Assigned(found=found, splits=list(splits), moved=NONE)
    there, moved = seen.among(
        [found.images[row] for row in held], [found.digests[row] for row in held], found.digest
    )
    assigned = list(splits)
    for row in np.array(held)[there].tolist():
        assigned[row] = ""
    kept = [row for row, split in enumerate(assigned) if split]
    if len(kept) == len(assigned):
        return Assigned(found=found, splits=assigned, moved=moved)
    pixels = found.pixels
    if pixels is not None:
        for place, row in enumerate(kept):  # no second copy in memory
            pixels[place] = pixels[row]
        pixels = pixels[: len(kept)]
    rest = replace(
        found,
        pixels=pixels,
        positions=found.positions[kept],
        images=tuple(found.images[row] for row in kept),
        splits=tuple(found.splits[row] for row in kept),
        digests=tuple(found.digests[row] for row in kept),
    )
    return Assigned(found=rest, splits=[assigned[row] for row in kept], moved=moved)

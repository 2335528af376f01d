"""Which images of an opened set can be used, and what stands for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import LabelledImage
from mobilette.data.opening import OpenSet
from mobilette.data.reading import read_all
from mobilette.data.store import ImageStore
from mobilette.progress import Advance

# Images that a remark names.
_NAMED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundRows:
    """The usable images of a set, in its order.

    Attributes:
        pixels: uint8 (N, C, R, R); ``None`` where they are left in the ``store``.
        store: all images of the set.
        positions: int64 (N,), where each lies in the store.
        digests: what stands for each; inside a split they are sorted by it.
    """

    pixels: NDArray[np.uint8] | None
    store: ImageStore
    positions: NDArray[np.int64]
    digests: tuple[str, ...]


def find_rows(opened: OpenSet, *, on_progress: Advance) -> FoundRows:
    """Read a set, or if it is streamed, as much of it as its digests need.

    Raises:
        InputError: too many images are unusable, or a worker process died.
    """
    if not opened.streamed:
        decoded = read_all(opened.store, on_progress=on_progress)
        return _found(opened, decoded.pixels, decoded.positions)
    store = opened.store
    missing = store.missing()
    if opened.digest != "names and sizes":
        try:
            store.scan(missing, progress=on_progress)
            store.check_unusable()
        except BaseException:
            store.close()
            raise
        store.forget_remarks()
    usable = [position for position in range(len(store)) if position not in store.broken]
    return _found(opened, None, np.array(usable, np.int64))


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Images that a set has several times where it should not.

    Attributes:
        in_train: by split, the names of images that are also in ``train``.
        in_val: names of images of ``test`` that are also in ``val``, which chose the weights.
        in_classes: names of one image, under several classes.
    """

    in_train: Mapping[str, tuple[str, ...]]
    in_val: tuple[str, ...]
    in_classes: tuple[tuple[str, ...], ...]

    def remarks(self) -> tuple[str, ...]:
        """Return what whoever trains on the set should know, each one line."""
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


def find_copies(
    found: FoundRows, chosen: Sequence[LabelledImage], assigned: Sequence[str]
) -> Copies | None:
    """Find images in several splits, or in several classes.

    The same are those with the same digest: every pixel, or every byte of the file.

    Args:
        found: the images.
        chosen: the same, with their labels.
        assigned: the split of each.

    Returns:
        The copies; ``None`` where some images were not read yet.
    """
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
                    in_train.setdefault(assigned[row], []).append(chosen[row].name)
        elif "val" in splits:
            in_val += [chosen[row].name for row in rows if assigned[row] == "test"]
        if len({chosen[row].label for row in rows}) > 1:
            in_classes.append(tuple(chosen[row].name for row in rows))
    return Copies(
        in_train={split: tuple(names) for split, names in sorted(in_train.items())},
        in_val=tuple(in_val),
        in_classes=tuple(in_classes),
    )


def _some(names: Sequence[str], *, between: str = ", ") -> str:
    return between.join([*names[:_NAMED], *["..."] * (len(names) > _NAMED)])


def _found(
    opened: OpenSet, pixels: NDArray[np.uint8] | None, positions: NDArray[np.int64]
) -> FoundRows:
    store, places = opened.store, positions.tolist()
    if opened.digest == "names and sizes":
        digests = [f"{store.images[at].name}\0{opened.stamps[at].size}" for at in places]
    else:
        digests = [store.digests[at].hex() for at in places]
    return FoundRows(pixels=pixels, store=store, positions=positions, digests=tuple(digests))

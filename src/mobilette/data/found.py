"""Which pictures of an opened set can be used, and what stands for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.opening import OpenSet
from mobilette.data.reading import LoadReport, read_all
from mobilette.data.store import PictureStore


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundRows:
    """The usable pictures of a set, in its order.

    Attributes:
        pixels: uint8 (N, C, R, R); ``None`` where they are left in the ``store``.
        store: all pictures of the set.
        positions: int64 (N,), where each lies in the store.
        digests: what stands for each; inside a split they are sorted by it.
    """

    pixels: NDArray[np.uint8] | None
    store: PictureStore
    positions: NDArray[np.int64]
    digests: tuple[str, ...]


def find_rows(opened: OpenSet, *, on_progress: LoadReport | None = None) -> FoundRows:
    """Read a set, or if it is streamed, as much of it as its digests need.

    Raises:
        InputError: too many pictures are unusable, or a worker process died.
    """
    if not opened.streamed:
        reading = read_all(opened.store, on_progress=on_progress)
        return _found(opened, reading.pixels, reading.positions)
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


def count_duplicates(found: FoundRows, assigned: Sequence[str]) -> dict[str, int] | None:
    """Count, by split, the pictures that are also in ``train``.

    Args:
        found: the pictures.
        assigned: the split of each.

    Returns:
        Splits that have such pictures; ``None`` where some pictures were not read yet.
    """
    digests = [found.store.digests.get(position) for position in found.positions.tolist()]
    if None in digests:
        return None
    placed = list(zip(digests, assigned, strict=True))
    trained = {digest for digest, split in placed if split == "train"}
    return Counter(split for digest, split in placed if split != "train" and digest in trained)


def _found(
    opened: OpenSet, pixels: NDArray[np.uint8] | None, positions: NDArray[np.int64]
) -> FoundRows:
    store, places = opened.store, positions.tolist()
    if opened.digest == "names and sizes":
        digests = [f"{store.pictures[at].name}\0{opened.stamps[at].size}" for at in places]
    else:
        digests = [store.digests[at].hex() for at in places]
    return FoundRows(pixels=pixels, store=store, positions=positions, digests=tuple(digests))

"""A set of pictures becomes arrays in memory: read, divided and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading, read_pictures
from mobilette.data.sources import Picture, PictureSet
from mobilette.data.splitting import held_out_fifth
from mobilette.errors import InputError

SCHEMA_VERSION = 1
_BY_FOLDERS = "folders"
_BY_RULE = "per class, first fifth by SHA-256 of decoded pixels"
_ORDER = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The pictures of one split.

    Attributes:
        pixels: uint8 of shape (N, C, R, R), contiguous; three channels are R, G, B.
        labels: int64 of shape (N,), indices into the classes.
        names: the N pictures' names.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A set of pictures in memory, divided into splits.

    Attributes:
        classes: class ids in the order of the labels.
        splits: ``"train"``, ``"val"`` and, where the set has one, ``"test"``.
        unusable: name and reason of every picture that was left out.
        ignored: how many files were no pictures, or in no class.
        fingerprint: SHA-256, in hex, over the split, class and decoded pixels of every picture; it
            depends on neither the resolution nor the files' names.
        flippable: whether a picture means the same seen in a mirror.
        source: the set as it was asked for.
        split_rule: how the set was divided, in words.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    unusable: tuple[tuple[str, str], ...]
    ignored: int
    fingerprint: str
    flippable: bool
    source: str
    split_rule: str

    def describe(self) -> dict[str, object]:
        """Return what ``dataset.json`` records, as a JSON object."""
        counts = {
            name: {
                "pictures": len(split.names),
                "per_class": dict(
                    zip(
                        self.classes,
                        np.bincount(split.labels, minlength=len(self.classes)).tolist(),
                        strict=True,
                    )
                ),
            }
            for name, split in self.splits.items()
        }
        description: dict[str, object] = {
            "schema": SCHEMA_VERSION,
            "source": self.source,
            "classes": list(self.classes),
            "splits": counts,
            "split_rule": self.split_rule,
            "fingerprint": self.fingerprint,
            "unusable": [{"path": name, "reason": reason} for name, reason in self.unusable],
            "ignored": self.ignored,
        }
        if self.split_rule == _BY_RULE:
            description["val_names"] = list(self.splits["val"].names)
        return description


def load_dataset(
    pictures: PictureSet,
    *,
    resolution: int,
    preprocess: Preprocess,
    workers: int = 0,
    max_unusable: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read every picture of a set once, divide a flat set, and keep all in memory.

    The arguments are those of ``read_pictures``; the result does not depend on ``workers``.

    Raises:
        InputError: the pictures do not fit the memory, too many are unusable, a class has none
            left to train on, or a split has none left.
    """
    given = [(split, picture) for split, all_ in pictures.splits.items() for picture in all_]
    reading = read_pictures(
        [picture for _, picture in given],
        resolution=resolution,
        preprocess=preprocess,
        workers=workers,
        max_unusable=max_unusable,
        on_progress=on_progress,
    )
    usable = [given[position] for position in reading.positions]
    assigned = _assign(usable, reading.digests)
    chosen = [picture for _, picture in usable]
    _check_classes(pictures, chosen, assigned)
    return Dataset(
        classes=pictures.classes,
        splits=_divide(reading, chosen, assigned),
        unusable=reading.unusable,
        ignored=len(pictures.ignored),
        fingerprint=_fingerprint(
            (split, pictures.classes[picture.label], digest)
            for split, picture, digest in zip(assigned, chosen, reading.digests, strict=True)
        ),
        flippable=pictures.flippable,
        source=pictures.name,
        split_rule=_BY_RULE if "all" in pictures.splits else _BY_FOLDERS,
    )


def load_split(
    pictures: Sequence[Picture],
    *,
    resolution: int,
    preprocess: Preprocess,
    workers: int = 0,
    max_unusable: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Split, tuple[tuple[str, str], ...]]:
    """Read the pictures of one split, as ``choose_split`` gives them.

    The arguments are those of ``read_pictures``.

    Returns:
        The split, and name and reason of every picture that was left out.

    Raises:
        InputError: the pictures do not fit the memory, too many are unusable, or all are.
    """
    reading = read_pictures(
        pictures,
        resolution=resolution,
        preprocess=preprocess,
        workers=workers,
        max_unusable=max_unusable,
        on_progress=on_progress,
    )
    usable = [pictures[position] for position in reading.positions]
    if not usable:
        raise InputError("there is no usable picture to read")
    return _split(reading.pixels, usable), reading.unusable


def _assign(usable: Sequence[tuple[str, Picture]], digests: Sequence[str]) -> list[str]:
    """Return the split of every usable picture; ``"all"`` is divided by the rule."""
    assigned = [split for split, _ in usable]
    flat = [index for index, split in enumerate(assigned) if split == "all"]
    held_out = held_out_fifth(
        labels=[usable[index][1].label for index in flat],
        digests=[digests[index] for index in flat],
        names=[usable[index][1].name for index in flat],
    )
    for index, held in zip(flat, held_out, strict=True):
        assigned[index] = "val" if held else "train"
    return assigned


def _check_classes(
    pictures: PictureSet, chosen: Sequence[Picture], assigned: Sequence[str]
) -> None:
    trained = {
        picture.label for picture, split in zip(chosen, assigned, strict=True) if split == "train"
    }
    held_out = {
        picture.label for picture, split in zip(chosen, assigned, strict=True) if split != "train"
    }
    for label, class_id in enumerate(pictures.classes):
        if label in trained:
            continue
        if "all" in pictures.splits and label in held_out:
            raise InputError(
                f"{pictures.name}: the class {class_id!r} has one usable picture; "
                "two are needed, one to train on and one held out"
            )
        raise InputError(
            f"{pictures.name}: the class {class_id!r} has no usable picture to train on"
        )
    for split in pictures.splits:
        if split != "all" and split not in assigned:
            raise InputError(f"{pictures.name}: the split {split!r} has no usable picture")


def _divide(
    reading: Reading, chosen: Sequence[Picture], assigned: Sequence[str]
) -> dict[str, Split]:
    """Cut the pictures into splits, each one contiguous piece of the one array.

    Inside a split they are ordered by their content, so that a run which is resumed after files
    were renamed sees them in the same order.
    """
    ranks = np.array([_ORDER.index(split) for split in assigned])
    order = np.array(
        sorted(
            range(len(chosen)),
            key=lambda index: (ranks[index], reading.digests[index], chosen[index].name),
        )
    )
    _reorder(reading.pixels, order)
    ends = np.cumsum(np.bincount(ranks, minlength=len(_ORDER)))
    starts = (0, *ends[:-1])
    return {
        split: _split(reading.pixels[start:end], [chosen[index] for index in order[start:end]])
        for split, start, end in zip(_ORDER, starts, ends, strict=True)
        if end > start
    }


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


def _split(pixels: NDArray[np.uint8], pictures: Sequence[Picture]) -> Split:
    return Split(
        pixels=pixels,
        labels=np.array([picture.label for picture in pictures], np.int64),
        names=tuple(picture.name for picture in pictures),
    )


def _fingerprint(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = sorted("\0".join(row) for row in rows)  # no folder's name contains a zero byte
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

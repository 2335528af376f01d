"""A set of pictures becomes arrays in memory: read, divided and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.labels import Labels, count_labels, indices_of, label_array
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading, read_pictures
from mobilette.data.sources import Picture, PictureSet
from mobilette.data.splitting import held_out_fifth
from mobilette.errors import InputError

SCHEMA_VERSION = 1
_BY_RULE = "per class, first fifth by SHA-256 of decoded pixels"
_BY_RULE_MULTI_LABEL = "first fifth by SHA-256 of decoded pixels"
_ORDER = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The pictures of one split.

    Attributes:
        pixels: uint8 of shape (N, C, R, R), contiguous; three channels are R, G, B.
        labels: int64 of shape (N,), indices into the classes; of a multi-label set uint8 of shape
            (N, classes), 1 where a class applies.
        names: the N pictures' names.
        shards: int64 of shape (N,), the tar file that each picture lies in; ``None`` where the
            pictures do not lie in tar files.
    """

    pixels: NDArray[np.uint8]
    labels: Labels
    names: tuple[str, ...]
    shards: NDArray[np.int64] | None = None


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

    @property
    def multi_label(self) -> bool:
        """Whether a picture may be of none or of several classes."""
        return any(split.labels.ndim == 2 for split in self.splits.values())

    def describe(self) -> dict[str, object]:
        """Return what ``dataset.json`` records, as a JSON object."""
        counts = {
            name: {
                "pictures": len(split.names),
                "per_class": dict(
                    zip(
                        self.classes,
                        count_labels(split.labels, num_classes=len(self.classes)),
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
        if self.multi_label:
            description["multi_label"] = True
        if self.split_rule in (_BY_RULE, _BY_RULE_MULTI_LABEL):
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
    rule = _BY_RULE_MULTI_LABEL if pictures.multi_label else _BY_RULE
    return Dataset(
        classes=pictures.classes,
        splits=_divide(reading, chosen, assigned, num_classes=len(pictures.classes)),
        unusable=pictures.unusable + reading.unusable,
        ignored=len(pictures.ignored),
        fingerprint=_fingerprint(
            (split, ";".join(pictures.classes[i] for i in indices_of(picture.label)), digest)
            for split, picture, digest in zip(assigned, chosen, reading.digests, strict=True)
        ),
        flippable=pictures.flippable,
        source=pictures.name,
        split_rule=rule if "all" in pictures.splits else pictures.divided_by,
    )


def load_split(
    pictures: Sequence[Picture],
    *,
    resolution: int,
    preprocess: Preprocess,
    num_classes: int = 0,
    workers: int = 0,
    max_unusable: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Split, tuple[tuple[str, str], ...]]:
    """Read the pictures of one split, as ``choose_split`` gives them.

    The arguments are those of ``read_pictures``; ``num_classes`` counts for multi-label pictures.

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
    return _split(reading.pixels, usable, num_classes=num_classes), reading.unusable


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
    trained, held_out = (
        {
            index
            for picture, split in zip(chosen, assigned, strict=True)
            if (split == "train") is train
            for index in indices_of(picture.label)
        }
        for train in (True, False)
    )
    for label, class_id in enumerate(pictures.classes):
        # The rule holds out a fifth of all multi-label pictures, which may be all of a rare class.
        if label in trained or (pictures.multi_label and label in held_out):
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
    reading: Reading, chosen: Sequence[Picture], assigned: Sequence[str], *, num_classes: int
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
        split: _split(
            reading.pixels[start:end],
            [chosen[index] for index in order[start:end]],
            num_classes=num_classes,
        )
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


def _split(pixels: NDArray[np.uint8], pictures: Sequence[Picture], *, num_classes: int) -> Split:
    shards = [picture.shard for picture in pictures if picture.shard is not None]
    return Split(
        pixels=pixels,
        labels=label_array([picture.label for picture in pictures], num_classes=num_classes),
        names=tuple(picture.name for picture in pictures),
        shards=np.array(shards, np.int64) if shards else None,
    )


def _fingerprint(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = sorted("\0".join(row) for row in rows)  # no folder's name contains a zero byte
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

"""Labelled images and sets of them, before decoding."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.decoding import decode, read_encoded
from mobilette.data.formats import UnusableImage
from mobilette.data.tar import TarMember
from mobilette.errors import InputError

SPLITS = ("train", "val", "test")
RESOLUTIONS = (32, 64, 96, 128, 160, 192, 224)
_SAMPLE = 64

# A class index or, in a multi-label set, a tuple of ascending class indices.
Label = int | tuple[int, ...]
# int64 (N,) or, in a multi-label set, uint8 (N, classes), 1 where a class applies.
Labels = NDArray[np.int64] | NDArray[np.uint8]
# What orders the images of a split, identifies them in the fingerprint and finds duplicates.
Digest = Literal["decoded pixels", "files", "names and sizes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """Identifies the content of an image's file without reading it.

    Attributes:
        path: absolute.
        offset: where the image begins in the file.
        size: of the image, in bytes; -1 where the file cannot be found.
        mtime_ns: when the file was last changed.
    """

    path: str
    offset: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One labelled image, not yet decoded.

    Attributes:
        name: identity wherever the set lies: the path relative to the set's root, with ``/``, or
            for example ``"digits/17"``.
        label: class index; in a multi-label set a tuple of them, ascending.
        content: a file, a file inside a tar file, or uint8 pixels (H, W) or (H, W, 3).
        shard: index of its tar file in the set; ``None`` outside tar files.
        group: what it shares with others that have to be on the same side; empty if nothing.
    """

    name: str
    label: Label
    content: Path | TarMember | NDArray[np.uint8] = field(compare=False)
    shard: int | None = None
    group: str = ""

    @property
    def in_memory(self) -> bool:
        """Whether the image is pixels already, with no file to read."""
        return isinstance(self.content, np.ndarray)

    def read(self) -> bytes:
        """Return the bytes of the image's file; empty where it is pixels already.

        Raises:
            UnusableImage: they cannot be read.
        """
        if isinstance(self.content, Path):
            return read_encoded(self.content)
        return self.content.read() if isinstance(self.content, TarMember) else b""

    def open(self) -> Image.Image:
        """Decode the image to mode ``"RGB"`` or ``"L"``.

        Raises:
            UnusableImage: it cannot be decoded.
        """
        if isinstance(self.content, np.ndarray):
            return Image.fromarray(self.content)
        return decode(self.read())

    def stamp(self) -> Stamp:
        """Return the `Stamp` of an image that lies in a file."""
        member = self.content if isinstance(self.content, TarMember) else None
        file = str(member.path if member is not None else self.content)
        path = os.path.abspath(file)  # noqa: PTH100  # links stay, a million are quick
        offset = member.offset if member is not None else 0
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            return Stamp(path=path, offset=offset, size=-1, mtime_ns=0)
        size = member.size if member is not None else status.st_size
        return Stamp(path=path, offset=offset, size=size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What the user accepted of an audit (`mobilette.data.findings`).

    Attributes:
        leave_out: digest of each image to leave out, by its name.
        relabel: digest and class of each image to relabel, by its name.
    """

    leave_out: Mapping[str, str] = field(default_factory=dict)
    relabel: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.leave_out or self.relabel)


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images of one set, before decoding.

    Attributes:
        name: the set as the user named it.
        classes: class ids in frozen order; labels index it.
        splits: images by split: ``"train"``, ``"val"`` and ``"test"`` in a divided set; ``"all"``,
            and ``"test"`` where there is one, in a flat set.
        multi_label: whether an image may have no class or several.
        flippable: whether a mirrored image means the same.
        divided_by: what divides it into splits, if anything.
        ignored: names of files outside the set: no image suffix, or in no class.
        unusable: name and reason of images known to be unusable before decoding.
        remarks: what the user should know about the set, one line each.
        accepted: what of an audit has been applied.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[LabelledImage, ...]]
    multi_label: bool = False
    flippable: bool = True
    divided_by: str = "folders"
    ignored: tuple[str, ...] = ()
    unusable: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    accepted: Accepted = Accepted()


def by_split(found: Mapping[str, Sequence[LabelledImage]]) -> dict[str, tuple[LabelledImage, ...]]:
    """Return the images of a divided set by split; a ``train`` alone becomes a flat set."""
    return {
        "all" if split == "train" and "val" not in found else split: tuple(found[split])
        for split in ("all", *SPLITS)
        if split in found
    }


def check_set(images: ImageSet) -> ImageSet:
    """Return ``images`` with a remark where ``val`` or ``test`` lacks some of the classes.

    Raises:
        InputError: there are fewer than two classes.
    """
    classes = images.classes
    if len(classes) < 2:
        only = f"one class, {classes[0]!r}" if classes else "no class"
        raise InputError(f"{images.name} has {only}; a classifier needs at least two")
    remarks = list(images.remarks)
    for split in ("val", "test"):
        if split in images.splits:
            there = {index for item in images.splits[split] for index in indices_of(item.label)}
            lacking = [name for index, name in enumerate(classes) if index not in there]
            if lacking:
                some = ", ".join(lacking[:5]) + ", ..." * (len(lacking) > 5)
                remarks.append(
                    f"{split} has no image of {len(lacking)} of the {len(classes)} classes ({some})"
                )
    return replace(images, remarks=tuple(remarks))


def label_array(labels: Sequence[Label], *, num_classes: int) -> Labels:
    """Return labels as int64 (N,) or, where they are tuples, uint8 (N, num_classes) of 0 and 1."""
    if not any(isinstance(label, tuple) for label in labels):
        return np.array(labels, np.int64)
    applies = np.zeros((len(labels), num_classes), np.uint8)
    for row, label in zip(applies, labels, strict=True):
        row[list(indices_of(label))] = 1
    return applies


def indices_of(label: Label) -> tuple[int, ...]:
    """Return the class indices of ``label``, ascending."""
    return label if isinstance(label, tuple) else (label,)


def count_labels(labels: Labels, *, num_classes: int) -> list[int]:
    """Return how many images each class has in an array from `label_array`."""
    if labels.ndim == 2:
        return [int(count) for count in labels.sum(axis=0, dtype=np.int64)]
    return [int(count) for count in np.bincount(labels, minlength=num_classes)]


def pixel_sha256(image: Image.Image) -> str:
    """Return the SHA-256, in hex, of a decoded image: its mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def suggest_resolution(images: ImageSet) -> int:
    """Return the largest usual resolution, at least 32, that does not enlarge the median image.

    The median is taken over the shorter sides of up to 64 images spread over the set.
    """
    everything = [image for split in images.splits.values() for image in split]
    sides = []
    for image in everything[:: max(1, len(everything) // _SAMPLE)]:
        try:
            sides.append(min(image.open().size))
        except UnusableImage:
            continue
    shorter = median(sides) if sides else RESOLUTIONS[-1]
    return max((size for size in RESOLUTIONS if size <= shorter), default=RESOLUTIONS[0])

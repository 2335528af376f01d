"""`LabelledImage` and `ImageSet`: labelled images before they are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.decoding import decode, read_encoded
from mobilette.data.labels import Label, indices_of
from mobilette.data.tar import TarMember
from mobilette.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One labelled image, not yet decoded.

    Attributes:
        name: its identity, wherever the set lies: the path relative to the root of the set, with
            ``/``, or for example ``"digits/17"``.
        label: index into the set's classes; in a multi-label set a tuple of them, ascending.
        content: a file, a file inside a tar file, or uint8 pixels of shape (H, W) or (H, W, 3).
        shard: which of the set's tar files it lies in, counted from 0; ``None`` outside of such.
    """

    name: str
    label: Label
    content: Path | TarMember | NDArray[np.uint8] = field(compare=False)
    shard: int | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the image is pixels already, with no file to be read."""
        return isinstance(self.content, np.ndarray)

    def read(self) -> bytes | None:
        """Return the bytes of the image's file; ``None`` where it is pixels already.

        Raises:
            UnusableImage: they cannot be read.
        """
        if isinstance(self.content, Path):
            return read_encoded(self.content)
        return self.content.read() if isinstance(self.content, TarMember) else None

    def open(self) -> Image.Image:
        """Decode the image to mode ``"RGB"`` or ``"L"``.

        Raises:
            UnusableImage: it cannot be decoded.
        """
        if isinstance(self.content, np.ndarray):
            return Image.fromarray(self.content)
        return decode(self.read() or b"")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images of one set, before any is decoded.

    Attributes:
        name: the set as it was asked for.
        classes: class ids in frozen order; labels index it.
        splits: images by split: ``"train"``, ``"val"`` and ``"test"`` where the set is divided;
            ``"all"`` (and ``"test"`` where there is one) where it is not.
        multi_label: whether an image may be of none or of several classes.
        flippable: whether an image means the same seen in a mirror.
        divided_by: what divides it into splits, where something does.
        ignored: names of files that are no part of the set: no image's suffix, or in no class.
        unusable: name and reason of what is known to be no usable image before any is decoded.
        remarks: what whoever asked for the set should know of it, each one line.
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


def by_split(found: Mapping[str, Sequence[LabelledImage]]) -> dict[str, tuple[LabelledImage, ...]]:
    """Return the images of a divided set by split; ``train`` alone is a set to be divided."""
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
        raise InputError(f"{images.name} has {only}; a classifier needs two or more")
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

"""Which images are held out, and which are measured on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobilette.data.digest import pixel_sha256
from mobilette.data.images import ImageSet, LabelledImage
from mobilette.data.labels import Label
from mobilette.data.unusable import UnusableImage
from mobilette.errors import one_of


def held_out_fifth(
    *, labels: Sequence[Label], digests: Sequence[str], names: Sequence[str]
) -> NDArray[np.bool_]:
    """Choose the images of a flat set that are held out.

    Per class, the images are sorted by the SHA-256 of their decoded pixels, and the first ⌈n/5⌉
    of n are held out; all images of a multi-label set count as one class. ``names`` only breaks
    ties between copies of one image.

    Returns:
        bool of shape (N,), true where the image is held out.
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

    Without a ``split`` that is ``val`` where the set has one, else every image; for a set that
    comes without files (``digits``) the held-out fifth, since nobody can move files aside. The
    ``train`` and ``val`` of a flat set are made by the rule, for which every image is decoded;
    images that cannot be are kept in the result, so that they are counted when it is read.

    Returns:
        The name of the split (``"all"`` for every image) and its images.

    Raises:
        InputError: the set has no such split.
    """
    flat = images.splits.get("all")
    if split is None:
        if flat is None:
            split = "val"
        else:
            split = "all" if not all(item.in_memory for item in flat) else "val"
    available = list(images.splits) + (["train", "val"] if flat is not None else [])
    one_of(split, available, f"{images.name}: split")
    if split in images.splits or flat is None:
        return split, images.splits[split]
    digests = [_digest(image) for image in flat]
    readable = [index for index, digest in enumerate(digests) if digest is not None]
    held_out = held_out_fifth(
        labels=[flat[index].label for index in readable],
        digests=[digest for digest in digests if digest is not None],
        names=[flat[index].name for index in readable],
    )
    other = {
        index
        for index, held in zip(readable, held_out, strict=True)
        if bool(held) != (split == "val")
    }
    return split, tuple(image for index, image in enumerate(flat) if index not in other)


def _digest(image: LabelledImage) -> str | None:
    try:
        return pixel_sha256(image.open())
    except UnusableImage:
        return None

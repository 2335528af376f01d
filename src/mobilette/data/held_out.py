"""The images to measure a model on: those that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.scale import Resolution
from mobilette.data.digests import NEW, UNUSABLE, Trained, digests_of
from mobilette.data.division import hold_out
from mobilette.data.images import Digest, ImageSet, LabelledImage
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import IN_THIS_PROCESS, Reading, read_images
from mobilette.data.splits import Split, make_split
from mobilette.errors import InputError, one_of
from mobilette.progress import SILENT, Reporter


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """Images to measure on, some of which are left out once their content is known.

    Attributes:
        images: the candidates.
        source: the set as the user named it.
        part: the part of them to keep, ``train``, ``val`` or ``test``; empty for all.
        by_rule: whether `hold_out` tells the parts if no recorded one has any of them.
        trained: what the model was trained on.
        include_trained: whether these images are kept all the same.
    """

    images: tuple[LabelledImage, ...]
    source: str = ""
    part: str = ""
    by_rule: bool = False
    trained: Trained = NEW
    include_trained: bool = False

    @property
    def kind(self) -> Digest:
        """The kind of digest to read the candidates by."""
        return reduce(or_, self.trained.parts.values(), self.trained.images).kind

    def of_part(self, digests: Sequence[str], kind: Digest) -> NDArray[np.bool_]:
        """Return which candidates belong to the part, bool (N,)."""
        parts = self.trained.parts
        if not self.part:
            return np.ones(len(self.images), np.bool_)
        held = {name: part.among(self.images, digests, kind)[0] for name, part in parts.items()}
        in_any = reduce(or_, held.values(), np.zeros(len(self.images), np.bool_))
        if in_any.any() or not self.by_rule:
            return held.get(self.part, ~in_any)
        if kind != "decoded pixels":
            digests = digests_of(self.images, "decoded pixels")
        usable = [row for row, digest in enumerate(digests) if digest != UNUSABLE]
        fifth = hold_out(
            labels=[self.images[row].label for row in usable],
            digests=[digests[row] for row in usable],
            names=[self.images[row].name for row in usable],
        )
        in_any[np.array(usable, np.int64)[fifth]] = True
        return in_any if self.part == "val" else ~in_any


def choose_split(
    images: ImageSet,
    split: str | None,
    *,
    trained: Trained = NEW,
    include_trained: bool = False,
) -> Choice:
    """Choose the images to measure a model on; none is read yet.

    By default these are ``val`` if the set has one, else every image, in both cases without those
    that the model was ``trained`` on. ``train`` and ``val`` of a flat set are the parts that were
    recorded with the model or, if it has seen none of the images, follow `hold_out`; a
    recorded ``test`` part is found again, too. If it is not known what the model was trained on,
    the held-out fifth of a set without files (``digits``) is chosen, because no file of it can be
    set aside.

    Raises:
        InputError: the set has no such split.
    """
    flat = "all" in images.splits
    cut = [*trained.parts, *(["train", "val"] if flat else [])]
    if split is None:
        split = "all" if flat else "val"
        alike = flat and all(image.in_memory for image in images.splits["all"])
        if alike and trained.unknown and not len(trained.images):
            split = "val"
    one_of(split, list(dict.fromkeys([*images.splits, *cut])), f"{images.name}: split")
    # Parts are cut from what there was to train on, folds from `val`, too.
    is_part = split not in images.splits or (split == "train" and "test" in trained.parts)
    some = images.splits.get(split, ())
    if is_part and split != "train":
        rest = (part for name, part in images.splits.items() if name != "test")
        some = tuple(image for part in rest for image in part)
    elif is_part:
        some = images.splits["all" if flat else "train"]
    return Choice(
        images=some,
        source=images.name,
        part=split if is_part else "",
        by_rule=flat and split != "test",
        trained=trained,
        include_trained=include_trained,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """Images to measure on, read.

    Attributes:
        split: the images as arrays.
        images: the same, in the same order.
        unusable: name and reason of every image that cannot be used.
        left_out: number of usable ones that are left out because the model was trained on them.
        includes_trained: whether ``images`` have some of these; ``None`` where that is not known.
    """

    split: Split
    images: tuple[LabelledImage, ...]
    unusable: tuple[tuple[str, str], ...]
    left_out: int
    includes_trained: bool | None


def read_choice(
    choice: Choice,
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    num_classes: int = 0,
    reading: Reading = IN_THIS_PROCESS,
    reporter: Reporter = SILENT,
) -> Read:
    """Read chosen images, each once, and leave out those that the model was trained on.

    The arguments are those of `read_images`; ``num_classes`` matters for multi-label images only.

    Raises:
        InputError: the images do not fit in memory, too many or all are unusable, or all would be
            left out.
    """
    kind = choice.kind
    decoded = read_images(
        choice.images,
        resolution=resolution,
        preprocess=preprocess,
        digest=kind,
        reading=reading,
        reporter=reporter,
    )
    usable = tuple(choice.images[position] for position in decoded.positions)
    if not usable:
        raise InputError("there is no usable image to read")
    trained = choice.trained
    kept = replace(choice, images=usable).of_part(decoded.digests, kind)
    seen = kept & trained.images.among(usable, decoded.digests, kind)[0]
    if seen.any() and not choice.include_trained:
        kept &= ~seen
    if not kept.any():
        raise InputError(_nothing_left(choice, int(seen.sum())))
    rows = np.flatnonzero(kept)
    pixels = decoded.pixels if len(rows) == len(usable) else decoded.pixels[rows]
    images = tuple(usable[row] for row in rows.tolist())
    includes = bool((seen & kept).any())
    return Read(
        split=make_split(pixels, images, num_classes=num_classes),
        images=images,
        unusable=decoded.unusable,
        left_out=int((seen & ~kept).sum()),
        includes_trained=None if trained.unknown and not includes else includes,
    )


def _nothing_left(choice: Choice, seen: int) -> str:
    if not seen:
        return f"{choice.source}: none of its images is in the part {choice.part!r}"
    which = f"{choice.part} of " if choice.part else ""
    return (
        f"{which}{choice.source}: the model was trained on all {seen:,} images; give others, or "
        "measure on these all the same with --include-trained"
    )


def members(choice: Choice) -> tuple[LabelledImage, ...]:
    """Return the images of a part; none is left out of it, not even unusable ones."""
    if not choice.part:
        return choice.images
    kept = choice.of_part(digests_of(choice.images, choice.kind), choice.kind)
    return tuple(image for image, there in zip(choice.images, kept, strict=True) if there)

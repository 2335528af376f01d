"""Which images belong together: an object, a person, a burst, a day."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from mobilette.data.images import ImageSet, LabelledImage, indices_of
from mobilette.errors import InputError, nearest, shown

FOLDER = "folder"
_WORD = re.compile(r"[\w -]+")


def group_column(groups: str | None, header: Sequence[str], where: str) -> int | None:
    """Return the column of a list with the images' groups; ``None`` if ``groups`` is none.

    Raises:
        InputError: ``groups`` is a plain word, but no column's name.
    """
    if groups is None or groups == FOLDER:
        return None
    if groups in header:
        return list(header).index(groups)
    if _WORD.fullmatch(groups):
        raise InputError(
            f"{where}: --groups {shown(groups)} is not one of the columns "
            f"{', '.join(map(repr, header))}{nearest(groups, header)}"
        )
    return None


def with_groups(images: ImageSet, groups: str | None) -> ImageSet:
    """Return ``images`` with the group of each, empty for an image that belongs to no other.

    ``groups`` is a column of the list; ``folder``, an image's own folder below its class's; or a
    regular expression for the image's name, of which the first group or, without one, the match
    names the group.

    Raises:
        InputError: it is no regular expression or matches no name, every image is alone in its
            group, or all images are in one.
    """
    if groups is None:
        return images
    everything = [image for some in images.splits.values() for image in some]
    if not any(image.group for image in everything):
        images = _by_name(images, groups)
        everything = [image for some in images.splits.values() for image in some]
    sizes = Counter(image.group for image in everything if image.group)
    said = f"{images.name}: --groups {shown(groups)}"
    if not sizes:
        example = everything[0].name
        what = (
            "no image lies in a folder of its own below that of its class"
            if groups == FOLDER
            else "matches no image's name"
        )
        raise InputError(f"{said}: {what}; a name is {shown(example)}")
    if max(sizes.values()) == 1:
        name = next(iter(sizes))
        raise InputError(
            f"{said}: every group has one image, such as {shown(name)}, so there is nothing to "
            "keep together; give what several images have in common"
        )
    if len(sizes) == 1 and sum(sizes.values()) == len(everything):
        raise InputError(
            f"{said}: all images are in one group, {shown(next(iter(sizes)))}; nothing could be "
            "held out"
        )
    many = [size for size in sizes.values() if size > 1]
    remark = (
        f"{len(many):,} groups of several images are kept together, the largest has "
        f"{max(many):,}; {len(everything) - sum(many):,} images are alone"
    )
    return replace(images, remarks=(*images.remarks, remark))


def group_numbers(images: Sequence[LabelledImage]) -> list[int] | None:
    """Return a number per image, equal for images of a group; ``None`` if none has a group."""
    if not any(image.group for image in images):
        return None
    numbers: dict[str, int] = {}
    return [
        numbers.setdefault(image.group or f"\0{row}", len(numbers))
        for row, image in enumerate(images)
    ]


def groups_across(images: Sequence[LabelledImage], splits: Sequence[str]) -> int:
    """Return how many groups are in several splits."""
    sides: dict[str, set[str]] = {}
    for image, split in zip(images, splits, strict=True):
        if image.group:
            sides.setdefault(image.group, set()).add(split)
    return sum(len(there) > 1 for there in sides.values())


def _by_name(images: ImageSet, groups: str) -> ImageSet:
    if groups == FOLDER:
        return _each(images, lambda image: _own_folder(image, images.classes))
    try:
        pattern = re.compile(groups)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"{images.name}: --groups {shown(groups)} is not a regular expression ({error})"
        ) from error

    def named(image: LabelledImage) -> str:
        match = pattern.search(image.name)
        if match is None:
            return ""
        return (match[1] if pattern.groups else match[0]) or ""

    return _each(images, named)


def _own_folder(image: LabelledImage, classes: Sequence[str]) -> str:
    """Return the folder of an image unless it is its class's own."""
    folder = image.name.rpartition("/")[0]
    own = {classes[index] for index in indices_of(image.label)}
    return "" if folder.rpartition("/")[2] in own else folder


def _each(images: ImageSet, group: Callable[[LabelledImage], str]) -> ImageSet:
    return replace(
        images,
        splits={
            split: tuple(replace(image, group=group(image)) for image in some)
            for split, some in images.splits.items()
        },
    )

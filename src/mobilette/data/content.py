"""Where an image's bytes lie: the one place that knows what `LabelledImage.content` can be."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mobilette.data.images import LabelledImage
from mobilette.data.tar import TarMember
from mobilette.data.unusable import UnusableImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What tells, without reading it, that an image's file is the one that was seen before.

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


def lies_in_file(image: LabelledImage) -> bool:
    """Whether the image is still to be read, rather than in memory already."""
    return not image.in_memory


def encoded(image: LabelledImage) -> bytes:
    """Return the bytes of an image that lies in a file.

    Raises:
        UnusableImage: they cannot be read.
    """
    content = image.read()
    if content is None:
        raise UnusableImage("has no file")
    return content


def stamp(image: LabelledImage) -> Stamp:
    """Return the `Stamp` of an image that lies in a file."""
    content = image.content
    member = content if isinstance(content, TarMember) else None
    file = str(member.path if member is not None else content)
    path = os.path.abspath(file)  # noqa: PTH100  # links stay, a million are quick
    offset = member.offset if member is not None else 0
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return Stamp(path=path, offset=offset, size=-1, mtime_ns=0)
    size = member.size if member is not None else status.st_size
    return Stamp(path=path, offset=offset, size=size, mtime_ns=status.st_mtime_ns)

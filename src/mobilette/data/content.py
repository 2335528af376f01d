"""Where a picture's bytes lie: the one place that knows what `Picture.content` can be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mobilette.data.decoding import UnusablePicture, read_file
from mobilette.data.sources import Picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What tells, without reading it, that a picture's file is the one that was seen before.

    Attributes:
        path: absolute.
        offset: where the picture begins in the file.
        size: of the picture, in bytes; -1 where the file cannot be found.
        mtime_ns: when the file was last changed.
    """

    path: str
    offset: int
    size: int
    mtime_ns: int


def lies_in_file(picture: Picture) -> bool:
    """Whether the picture is still to be read, rather than in memory already."""
    return isinstance(picture.content, Path)


def encoded(picture: Picture) -> bytes:
    """Return the bytes of a picture that lies in a file.

    Raises:
        UnusablePicture: they cannot be read.
    """
    if isinstance(picture.content, Path):
        return read_file(picture.content)
    raise UnusablePicture("has no file")


def stamp(picture: Picture) -> Stamp:
    """Return the `Stamp` of a picture that lies in a file."""
    path = os.path.abspath(str(picture.content))  # noqa: PTH100  # links stay, a million are quick
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return Stamp(path=path, offset=0, size=-1, mtime_ns=0)
    return Stamp(path=path, offset=0, size=status.st_size, mtime_ns=status.st_mtime_ns)

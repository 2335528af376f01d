"""What a long operation tells its caller while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Called with how much is done, and how much there is in all.
Advance = Callable[[int, int], None]
# Called with one line for the user: about a choice that was made, or what happened.
Remark = Callable[[str], None]


def _ignore_advance(done: int, total: int) -> None:
    pass


def _ignore_remark(line: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Who is told how a long operation goes; by default nobody.

    Attributes:
        reading: called with (images read, images in all).
        download: called with (bytes received, bytes in all).
        remark: called with one line for the user.
    """

    reading: Advance = _ignore_advance
    download: Advance = _ignore_advance
    remark: Remark = _ignore_remark


SILENT = Reporter()

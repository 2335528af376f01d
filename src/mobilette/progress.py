"""Progress and remarks of long operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Called with the amount done and the total.
Advance = Callable[[int, int], None]
# Called with one line for the user: a choice that was made, or what happened.
Remark = Callable[[str], None]


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Receives the progress and remarks of a long operation; by default ignores them.

    Attributes:
        reading: called with (images read, total).
        download: called with (bytes received, total).
        remark: called with one line for the user.
    """

    reading: Advance = _ignore
    download: Advance = _ignore
    remark: Remark = _ignore


SILENT = Reporter()

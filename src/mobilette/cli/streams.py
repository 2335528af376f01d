"""Standard streams that are closed, or whose reader has gone: what was asked is done anyway."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast


class _MayBreak:
    """A stream for remarks: those that its reader does not take are lost, and nothing else is.

    A training goes on, and saves its state, although its terminal was closed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def secure_streams() -> None:
    """Let output go to nowhere where a stream is closed, and no character or reader end us."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It takes the lowest free number, so that no file that is opened later gets it.
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, io.open(descriptor, mode, closefd=False))  # noqa: SIM115, UP020
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal or pipe that cannot show a character gets its number, not a crash.
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = cast(TextIO, _MayBreak(sys.stderr))


def drop_output() -> None:
    """Let nothing more be written to stdout, whose reader has gone, as this process ends."""
    with suppress(OSError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())

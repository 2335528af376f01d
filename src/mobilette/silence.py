"""Silence for packages that talk while they are imported or convert."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def silence() -> Iterator[None]:
    """Let nothing inside write to stdout or stderr, native code included, nor warn.

    The streams are those of the whole process, so what other threads write meanwhile is lost, too.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                kept = os.dup(number)
            except OSError:  # closed, so already silent
                continue
            stream.flush()
            stack.callback(_restore, kept, number)
            stack.callback(stream.flush)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        yield


def _restore(kept: int, number: int) -> None:
    os.dup2(kept, number)
    os.close(kept)

"""Silence for packages that talk while they are imported or convert."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path


@contextmanager
def silence() -> Iterator[None]:
    """Let nothing inside write to stdout or stderr, native code included, nor warn.

    The streams are those of the whole process, so what other threads write meanwhile is lost, too.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                kept = os.dup(number)
            except OSError:  # closed, so already silent
                continue
            stream.flush()
            stack.callback(_restore, kept, number)
            stack.callback(stream.flush)
            os.dup2(nowhere.fileno(), number)
        # Some write to the streams of Python, which may have been put elsewhere.
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        yield


def _restore(kept: int, number: int) -> None:
    os.dup2(kept, number)
    os.close(kept)

"""Silence for packages that print or warn while they are imported or convert."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
)
from functools import cache
from typing import TextIO


class Together:
    """A context of the whole process: the first thread enters it, and the last one leaves it.

    Streams and warning filters belong to the process; two threads that swapped them independently
    could leave them swapped. In a child of `fork` only the thread that forked may still be inside.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make, self._lock, self._own = make, threading.Lock(), threading.local()
        self._inside, self._context = 0, make()
        if hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._after_in_child,
            )

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1
        self._own.depth = self._depth() + 1

    def __exit__(self, *_: object) -> None:
        self._own.depth = self._depth() - 1
        with self._lock:
            self._leave(1)

    def _depth(self) -> int:
        return getattr(self._own, "depth", 0)

    def _leave(self, count: int) -> None:
        self._inside -= count
        if count and not self._inside:
            self._context.__exit__(None, None, None)

    def _after_in_child(self) -> None:
        self._leave(self._inside - self._depth())
        self._lock.release()


@contextmanager
def silence() -> Iterator[None]:
    """Discard output to stdout and stderr, native code included, and warnings.

    Output of other threads meanwhile is lost, too.
    """
    with NO_WARNINGS, _NO_OUTPUT:
        yield


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_output() -> Iterator[None]:
    with ExitStack() as stack:
        nowhere = _nowhere()
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


@cache
def _nowhere() -> TextIO:
    """Return a file that is never closed, because other threads may keep it as their stream."""
    return open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)


def _restore(kept: int, number: int) -> None:
    os.dup2(kept, number)
    os.close(kept)


NO_WARNINGS, _NO_OUTPUT = Together(_without_warnings), Together(_without_output)

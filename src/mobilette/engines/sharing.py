"""Predictors among threads and processes: `Sessions`, and calls that `fork` waits for.

A child of ``fork`` has its parent's memory but only the thread that forked: locks held by others
stay locked, and engines' threads are gone. So a fork waits until no call is running, and the child
never uses its parent's sessions.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from mobilette.data.machine import usable_cores

T = TypeVar("T")

# In a child of `fork` their own pools of threads wait for threads that are gone.
POOLED = ("torch", "ncnn", "openvino")


class _Calls:
    """The engine calls running in this process, over all threads."""

    def __init__(self) -> None:
        self.inherited: frozenset[str] = frozenset()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._entrance = threading.Lock()
        self._left = threading.Condition()
        self._under_way = 0
        self._own = threading.local()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count as one call inside; nested calls count once."""
        depth = self._depth()
        if not depth:
            with self._entrance, self._left:
                self._under_way += 1
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            if not depth:
                with self._left:
                    self._under_way -= 1
                    self._left.notify_all()

    def before_fork(self) -> None:
        """Block new calls of other threads and wait for the running ones."""
        self._entrance.acquire()
        self._left.acquire()
        own = min(self._depth(), 1)
        while self._under_way > own:
            self._left.wait()

    def after_in_parent(self) -> None:
        self._left.release()
        self._entrance.release()

    def after_in_child(self) -> None:
        """Forget the parent's calls; only this thread is left.

        What the parent did not need any more is never freed here: engines would wait for threads
        that are gone.
        """
        gc.freeze()
        depth = self._depth()
        self._begin_anew()
        self._own.depth, self._under_way = depth, min(depth, 1)
        self.inherited |= {package for package in POOLED if package in sys.modules}

    def _depth(self) -> int:
        return getattr(self._own, "depth", 0)


CALLS = _Calls()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=CALLS.before_fork,
        after_in_parent=CALLS.after_in_parent,
        after_in_child=CALLS.after_in_child,
    )


def inherited(package: str) -> bool:
    """Return whether this process got ``package``, without its threads, by `fork`."""
    return package in CALLS.inherited


def usable_threads(package: str, threads: int) -> int:
    """Return ``threads``, or 1 if this process got ``package`` by `fork`."""
    return 1 if inherited(package) else threads


def calls_at_once(threads: int) -> int:
    """Return how many calls of ``threads`` threads the cores can execute; 0 counts as one."""
    return max(usable_cores() // max(threads, 1), 1)


class Sessions(Generic[T]):
    """An engine's sessions: made when needed, never used in a child of `fork`.

    Args:
        at_once: the most there may be, each lent to one call at a time while other calls wait;
            ``None`` means one session, which any number of threads use together.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._at_once = at_once
        self._changed = threading.Condition()
        self._process, self._made = os.getpid(), 0
        self._free: list[T] = []

    @contextmanager
    def lend(self, make: Callable[[], T]) -> Iterator[T]:
        """Yield a session, made by ``make`` if none is free; it is dropped if the call fails."""
        with CALLS.one():
            session = self._take(make)
            try:
                yield session
            except BaseException:
                self._give_back()
                raise
            self._give_back(session)

    def _take(self, make: Callable[[], T]) -> T:
        with self._changed:
            if self._process != os.getpid():
                self._forget()
            while not self._free and self._made == self._at_once:
                self._changed.wait()
            if self._at_once is None:
                if not self._free:
                    self._free.append(make())
                return self._free[-1]
            if self._free:
                return self._free.pop()
            self._made += 1
        try:
            return make()
        except BaseException:
            self._give_back()
            raise

    def _give_back(self, *session: T) -> None:
        if self._at_once is None:
            return
        with self._changed:
            self._free += session
            self._made -= not session
            self._changed.notify()

    def _forget(self) -> None:
        """Leak the parent's sessions: freeing them would wait for threads that are gone."""
        for session in self._free:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._process, self._made, self._free = os.getpid(), 0, []

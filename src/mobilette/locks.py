"""Locks between processes: the system's own, released when the holding process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout


class TakenError(Exception):
    """Another process, or thread, has the lock.

    Attributes:
        holder: "process 4711", or "another process" if its number is unknown.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


Held = Literal["now", "before", "not"]


@contextmanager
def locked(file: Path, *, again: bool = True) -> Iterator[Held]:
    """Hold the lock ``file``, which is created and removed with it.

    Args:
        file: the lock file.
        again: whether a thread may take a lock it already holds.

    Yields:
        ``now`` if the lock was taken; ``before`` if this thread held it already; ``not`` if a
        network file system has no locks or the file cannot be written.

    Raises:
        TakenError: another process, or another thread, has it.
    """
    # Other users who may write the folder can take over the lock of a dead process.
    lock = FileLock(file, mode=0o666, is_singleton=True, on_acquired=_sign)
    held: Held = "before" if lock.is_locked else "now"
    if held == "before" and not again:
        raise TakenError(f"process {os.getpid()}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TakenError(_holder(file)) from None
    except (OSError, NotImplementedError) as error:
        held = "not"
        if not isinstance(error, PermissionError):  # else it may be another's
            with suppress(OSError):
                file.unlink()
    try:
        yield held
    finally:
        if held == "now":
            with suppress(OSError):  # Windows keeps what is open
                file.unlink()
        if held != "not":
            lock.release()


def _sign(descriptor: int) -> None:
    with suppress(OSError):  # a full disk; the lock holds without
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())


def _holder(file: Path) -> str:
    with suppress(OSError, ValueError):  # Windows lets nobody else read it
        return f"process {int(file.read_text())}"
    return "another process"

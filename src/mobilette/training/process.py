"""Process-wide settings and signals; importing this changes nothing."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import sys
import threading
from types import FrameType, SimpleNamespace
from typing import Self

from mobilette.data.machine import usable_cores
from mobilette.limits import THREADS

# malloc.h: thresholds above which glibc returns memory to the kernel.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_UP_TO = 2**31 - 1
# Room that is asked for at once, twice: as much as fits below both thresholds.
ROOM = 960 * 2**20
GIVE_BACK_FROM = 2**17
# Polls of a thread for work before it sleeps; GNU OpenMP's own 300,000 take milliseconds.
SPINS = "300"


# The setting of glibc's allocator, which cannot be queried.
_allocator = SimpleNamespace(keeps_memory=False)


def let_threads_sleep() -> None:
    """Make waiting threads yield their core soon; call before torch is imported.

    Where other programs use the cores too, waiting threads make a step up to ten times slower
    (docs/log.md). Settings in the environment win.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def set_threads(threads: int | None) -> int:
    """Set and return the threads per operation, by default OMP_NUM_THREADS or one per core."""
    import torch

    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()  # torch has read it
    count = threads or usable_cores()
    THREADS.check("--threads", count)
    torch.set_num_threads(count)
    return count


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep large freed blocks; return whether it agreed.

    Every step allocates the same activations. By default the kernel maps and zeroes them each time,
    which takes about as long as the arithmetic (`bench/train_step.py`). What is kept, up to 1.9
    GiB, is in pages of 2 MiB where the kernel has them, which take fewer lookups (docs/log.md).
    """
    if not _has_glibc():
        return False
    libc = ctypes.CDLL(None)
    agreed: bool = (
        libc.mallopt(M_MMAP_THRESHOLD, 2**30) == 1
        and libc.mallopt(M_TRIM_THRESHOLD, KEEP_UP_TO) == 1
    )
    if agreed:
        _ask_for_large_pages(libc)
    _allocator.keeps_memory = agreed
    return agreed


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Grow the heap, which takes no memory until it is written, and advise the kernel about it."""
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(ctypes.c_size_t(ROOM)) for _ in range(2)]
    for block in blocks:
        if block is not None:  # there may be a limit on address space
            begin = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (block + ROOM - begin) // mmap.PAGESIZE * mmap.PAGESIZE
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
            libc.free(ctypes.c_void_p(block))


def describe_allocator() -> str:
    """Return what a run records about freed memory: ``keeps memory`` or ``default``."""
    return "keeps memory" if _allocator.keeps_memory else "default"


def return_freed_memory() -> None:
    """Undo `keep_freed_memory`: oneDNN maps its own kernels and needs memory from the system."""
    if _has_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, GIVE_BACK_FROM)
        libc.malloc_trim(0)
        _allocator.keeps_memory = False


def _has_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


_HANG_UP = (signal.SIGHUP,) if sys.platform != "win32" else ()


class StopRequest:
    """While active, the first Ctrl-C (SIGTERM, SIGHUP) is only recorded; the second stops at once.

    Kernel and shell both send SIGHUP when a terminal closes, so a second one changes nothing; under
    ``nohup`` it stays ignored. Outside the main thread nothing is recorded. ``patient`` records
    every signal: `torchrun` repeats the Ctrl-C that the terminal has already sent.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.requested, self.patient = False, patient
        self._previous: list[tuple[signal.Signals, signal._HANDLER]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *_HANG_UP):
                handler = signal.getsignal(number)
                if handler is None or (handler is signal.SIG_IGN and number in _HANG_UP):
                    continue  # None: set by the program that embeds Python
                self._previous.append((number, handler))
                signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        while self._previous:
            signal.signal(*self._previous.pop())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.patient and number not in _HANG_UP:
            raise KeyboardInterrupt
        self.requested = True

"""Settings of the whole process. None is changed on import.

All but `return_freed_memory` are called by the command line's ``train`` alone.
"""

from __future__ import annotations

import ctypes
import os
import platform

from mobilette.data.machine import usable_cores
from mobilette.limits import THREADS

# malloc.h: thresholds above which glibc gives memory back to the kernel.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_UP_TO = 2**31 - 1
GIVE_BACK_FROM = 2**17


# How often a thread looks for work before it sleeps; GNU OpenMP's own 300,000 are milliseconds.
SPINS = "300"


def let_threads_sleep() -> None:
    """Make threads that wait for others give up their core soon; call before torch is imported.

    On cores that other programs use as well, a step is otherwise up to ten times slower: the
    threads that wait take the time of the one that they wait for (docs/log.md). What the
    environment says already is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def set_threads(threads: int | None) -> int:
    """Set the number of threads of one operation and return it.

    By default those of the environment variable OMP_NUM_THREADS, else one a usable core.
    """
    import torch

    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()  # torch has read it
    count = threads or usable_cores()
    THREADS.check("--threads", count)
    torch.set_num_threads(count)
    return count


def keep_freed_memory() -> bool:
    """Tell glibc's allocator not to return large blocks to the kernel; say whether it agreed.

    Every step allocates the same activations again. By default each of them is mapped and zeroed
    by the kernel anew, which costs about as much as the arithmetic (`bench/train_step.py`). On
    other systems nothing is done.
    """
    if not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(M_MMAP_THRESHOLD, 2**30) == 1 and mallopt(M_TRIM_THRESHOLD, KEEP_UP_TO) == 1
    )


def return_freed_memory() -> None:
    """Undo `keep_freed_memory`: give what glibc's allocator keeps back to the kernel.

    oneDNN maps its kernels afresh: when the memory is full it finds none although much is free.
    """
    if _has_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, GIVE_BACK_FROM)
        libc.malloc_trim(0)


def _has_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"

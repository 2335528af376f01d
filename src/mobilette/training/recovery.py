"""What can go wrong in a step and be mended: too little memory, a loss that explodes."""

from __future__ import annotations

import gc
import math
import mmap
from collections.abc import Sequence

import torch

from mobilette.errors import InputError
from mobilette.training.process import return_freed_memory

# A network that knows nothing has the loss of guessing; bad luck makes it a few times worse.
EXPLODED = 20.0
MOST_ROLLBACKS = 2
SMALLER_RATE = 0.2
_RESERVE = 64 * 2**20

# What allocators and oneDNN say; PyTorch has a type of its own for GPUs only. oneDNN does not tell
# why it could not: that it lacks an operation does not happen, PyTorch asks it before.
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory object",
)


class DivergedError(Exception):
    """The loss is not finite, or many times that of guessing. The message says which."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that there is too little memory, on a device or here."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def reserve_memory() -> mmap.mmap | None:
    """Return addresses, no page of which is ever touched, to be given up when memory is full.

    ``None`` where it is full already.

    oneDNN maps the code that it makes for smaller batches afresh, while what steps have freed stays
    in the allocator, held by a few small things at its end.
    """
    try:
        return mmap.mmap(-1, _RESERVE)
    except OSError:
        return None


def free_memory(reserve: mmap.mmap | None) -> None:
    """Give back what a step that failed has left, and the ``reserve``."""
    gc.collect()
    if reserve is not None:
        reserve.close()
    return_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halve(parts: int, *, pictures: int, error: Exception) -> int:
    """Return twice as many parts for a batch of ``pictures`` that did not fit the memory.

    Raises:
        InputError: the parts would have fewer than the two pictures that batch norm needs.
    """
    if pictures // (2 * parts) < 2:
        raise InputError(
            f"{max(pictures // parts, 1)} pictures at once do not fit the memory; a smaller "
            "--resolution or --width-mult is needed"
        ) from error
    return 2 * parts


def check_losses(losses: Sequence[float], *, guessing: float) -> None:
    """Raise `DivergedError` if one of ``losses`` is not finite or far above that of guessing."""
    for loss in losses:
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss}")
        if loss > EXPLODED * guessing:
            raise DivergedError(f"the loss is {loss:.4g}, that of guessing is {guessing:.2g}")

"""Automatic recovery: from too little memory and from an exploding loss."""

from __future__ import annotations

import gc
import math
import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch

from mobilette.errors import InputError
from mobilette.progress import Remark
from mobilette.training.process import return_freed_memory
from mobilette.training.state import Progress

T = TypeVar("T")

# Largest loss relative to guessing: an untrained network has at most a few times that of guessing.
EXPLODED = 20.0
MOST_ROLLBACKS = 2
SMALLER_RATE = 0.2
_RESERVE = 64 * 2**20  # bytes

# Messages of allocators and oneDNN; PyTorch has an exception type only for GPUs. oneDNN gives no
# reason, but PyTorch only asks it for operations that it has.
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
    """The loss is not finite, or many times that of guessing; the message says which."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` means too little memory, on a device or the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


class Parts:
    """Repeats work in smaller parts (gradient accumulation) when memory runs out.

    ``batch`` is the images per step over all processes; several processes cannot change their
    parts. The gradients of ``optimizer`` are dropped when a step fails.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, batch: int, processes: int, remark: Remark
    ) -> None:
        self.optimizer, self.batch, self.processes = optimizer, batch, processes
        self.remark = remark
        # Addresses in which oneDNN can map code for smaller batches later.
        self._reserve: mmap.mmap | None = None
        with suppress(OSError):
            self._reserve = mmap.mmap(-1, _RESERVE)

    def work(self, function: Callable[[], T], progress: Progress, *, images: int) -> T:
        """Return ``function()``, called again with more ``progress.parts`` when memory runs out.

        ``function`` works on ``images`` images of this process, in ``progress.parts`` parts.

        Raises:
            InputError: parts cannot be smaller, or other processes would have to follow.
        """
        while True:
            try:
                return function()
            except (RuntimeError, MemoryError) as error:
                self._halve(error, progress, images=images)
            # Nothing refers to the error any more here, nor to what the step had in memory.
            self.optimizer.zero_grad(set_to_none=True)
            self._free_memory()
            self.remark(
                f"out of memory: each batch of {self.batch} is split into {progress.parts} parts, "
                "with accumulated gradients"
            )

    def _halve(self, error: Exception, progress: Progress, *, images: int) -> None:
        if not is_out_of_memory(error):
            raise error
        parts = progress.parts
        if self.processes > 1:
            raise InputError(
                f"{images} images per process do not fit in memory; use a smaller "
                f"--batch-size or --set accumulate={2 * parts}"
            ) from error
        if images // (2 * parts) < 2:  # batch norm needs two
            raise InputError(
                f"{max(images // parts, 1)} images at once do not fit in memory; use a smaller "
                "--resolution or --width-mult"
            ) from error
        progress.parts = 2 * parts

    def _free_memory(self) -> None:
        gc.collect()
        if self._reserve is not None:
            self._reserve.close()
        return_freed_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def check_losses(losses: Sequence[float], *, guessing: float) -> None:
    """Raise `DivergedError` if a loss is not finite or far above that of guessing."""
    for loss in losses:
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss}")
        if loss > EXPLODED * guessing:
            raise DivergedError(f"the loss is {loss:.4g} (guessing gives {guessing:.2g})")

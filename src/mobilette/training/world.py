"""The processes that train one network together (`torchrun`), or the one that trains alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mobilette.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Which process this is, of how many; what they tell each other.

    Attributes:
        rank: 0 is the one that writes.
        size: number of processes.
        talk: the group for words that are not tensors of the device; ``None`` alone.
    """

    rank: int = 0
    size: int = 1
    talk: dist.ProcessGroup | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes the run directory."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Return the first process's ``value`` (plain data) in every process."""
        if self.size == 1:
            return value
        words = [value]
        dist.broadcast_object_list(words, src=0, group=self.talk)
        return words[0]

    def agree_on(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return the largest of each of ``values`` over the processes."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.talk)
        return tuple(numbers.tolist())

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` (on the CPU) over the processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self.talk)
        return total / self.size

    def gather(self, value: T) -> list[T]:
        """Return every process's ``value`` (plain data), by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.talk)
        return [each for each in values if each is not None]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier(group=self.talk)


ALONE = World()


def is_launched() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_restarted() -> bool:
    """Whether `torchrun` started this process again after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch() -> str | None:
    """Return what tells this start of `torchrun` from others, also after it restarted processes.

    Over several machines that is the ``--rdzv-id``, as far as the user gives one.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none" and os.environ.get("GROUP_WORLD_SIZE") == "1":
        return f"process {os.getppid()}"
    return name


def writes() -> bool:
    """Whether this process is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device(device: torch.device) -> torch.device:
    """Return the GPU of this process, or ``device`` where it is no GPU or the process is alone."""
    if device.type != "cuda" or not is_launched():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that `torchrun` started, for as long as the block lasts.

    Alone, nothing is joined. NCCL on GPUs, gloo elsewhere.

    Raises:
        InputError: the device cannot train with others.
    """
    if not is_launched():
        yield ALONE
        return
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {device}: several processes train on cpu or cuda only")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        # The first process may read pictures, or download weights, for as long as it takes.
        talk = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), talk=talk)
    finally:
        dist.destroy_process_group()

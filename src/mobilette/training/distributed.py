"""Training in several processes (`torchrun`), or in one."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mobilette.errors import InputError
from mobilette.folders import claimed

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

T = TypeVar("T")

# Seconds that processes wait for each other at the start, and between two polls.
_PATIENCE, _POLL = 1800.0, 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """This process among those that train together; each method is called by all of them.

    ``rank`` 0 writes the run; ``group`` is for data on the CPU, ``None`` for a single process.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes the run directory."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Return the ``value`` (plain data) of rank 0."""
        if self.size == 1:
            return value
        words = [value]
        dist.broadcast_object_list(words, src=0, group=self.group)
        return words[0]

    def all_reduce_max(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return the maximum of each of ``values`` over the processes."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.group)
        return tuple(numbers.tolist())

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` (on the CPU) over the processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self.group)
        return total / self.size

    def all_gather(self, value: T) -> list[T]:
        """Return every process's ``value`` (plain data), by rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return [each for each in values if each is not None]

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier(group=self.group)


ALONE = World()


def is_launched() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_restarted() -> bool:
    """Whether `torchrun` restarted this process after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch() -> str | None:
    """Return this launch's identifier (``--rdzv-id`` across machines), which restarts keep."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none" and os.environ.get("GROUP_WORLD_SIZE") == "1":
        return f"process {os.getppid()}"
    return name


def writes() -> bool:
    """Whether this process writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def claimed_by_writer(
    path: Path, remark: Callable[[str], None] | None
) -> AbstractContextManager[None]:
    """Claim a run directory (`mobilette.folders.claimed`) in the process that writes it."""
    return claimed(path, remark=remark) if writes() else nullcontext()


def own_device(device: torch.device) -> torch.device:
    """Return this process's own GPU, or ``device`` if that is no GPU or no other process trains."""
    if device.type != "cuda" or not is_launched():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that `torchrun` started (NCCL or gloo) until the block ends."""
    if not is_launched():
        yield ALONE
        return
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {device}: several processes can train on cpu or cuda only")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    from torch.distributed.rendezvous import rendezvous  # not in every build of PyTorch

    store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=_PATIENCE)))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_fresh_store(store, rank, size),
        rank=rank,
        world_size=size,
    )
    try:
        # The first process may read images or download weights for any length of time.
        group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), group=group)
    finally:
        dist.destroy_process_group()


def _fresh_store(store: Store, rank: int, size: int) -> Store:
    """Return a part of ``store`` that only processes of this start have written to.

    Processes that `torchrun` restarts get the old store, with the addresses of dead processes
    (https://github.com/pytorch/pytorch/issues/135712), and machines may count restarts differently.
    So rank 0 makes up a name and tells it to every process that asks. Questions are random, so no
    answer is from an earlier start.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    if rank > 0:
        question = secrets.token_hex()
        store.set(f"mobilette/asks/{rank}", question)
        name = store.get(f"mobilette/answer/{question}").decode()
        store.set(f"mobilette/heard/{name}/{rank}", "")
        return PrefixStore(name, store)
    name = secrets.token_hex()
    missing = set(range(1, size))
    deadline = time.monotonic() + _PATIENCE
    while missing:
        for other in sorted(missing):
            if store.check([f"mobilette/asks/{other}"]):
                question = store.get(f"mobilette/asks/{other}").decode()
                store.set(f"mobilette/answer/{question}", name)
            if store.check([f"mobilette/heard/{name}/{other}"]):
                missing.remove(other)
        if time.monotonic() > deadline:
            raise InputError(f"{len(missing)} of {size} processes did not start in time")
        time.sleep(_POLL)
    return PrefixStore(name, store)

"""Usable cores and memory."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from mobilette.arch.scale import resolution_text
from mobilette.errors import InputError

ROOT = Path("/")
# Where Linux shows a container its memory limit, usage and statistics: versions 2 and 1.
CONTROL_GROUPS = Path("/sys/fs/cgroup")
_CONTAINER = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
_MEMORY_SHARE = 0.6


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use, divided among `torchrun`'s processes.

    The cores it may run on, or its container's quota where that is less. A quota of 1.5 counts as
    two, since two threads get more done with it than one.
    """
    cores = _own_cores()
    quota = cpu_quota()
    if quota is not None:
        cores = min(cores, math.ceil(quota))
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def pin(threads: int) -> None:
    """Bind this process to its last ``threads`` cores, where the system allows it.

    Moving between cores means cold caches; the first core handles interrupts.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])


def threads_by_quota() -> int:
    """Return `usable_cores` where a quota allows fewer than engines see, else 0.

    Engines count the cores that a process may run on and know nothing of quotas.
    """
    quota = cpu_quota()
    return usable_cores() if quota is not None and quota < _own_cores() else 0


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the processor time that this process may use, in cores; ``None`` without a limit.

    The smallest quota of all Linux control groups, version 1 or 2, around the process:
    https://docs.kernel.org/admin-guide/cgroup-v2.html (``cpu.max``) and
    https://docs.kernel.org/scheduler/sched-bwc.html (``cpu.cfs_quota_us``). ``root`` contains
    ``proc`` and the groups.
    """
    quotas = (_quota(folder) for folder in _groups(root))
    return min((quota for quota in quotas if quota is not None), default=None)


def available_memory() -> int | None:
    """Return how many bytes can be allocated without swapping; ``None`` where unknown."""
    # "Available" counts the page cache, which can be reclaimed; os.sysconf's free pages do not.
    limits = [
        int(line.split()[1]) * 1024
        for line in _lines(Path("/proc/meminfo"))
        if line.startswith("MemAvailable:")
    ]
    limits += [left for names in _CONTAINER if (left := _left_in_container(*names)) is not None]
    names: Iterable[str] = getattr(os, "sysconf_names", ())  # not on Windows
    if not limits and "SC_PHYS_PAGES" in names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def fits_memory(size: int) -> bool:
    """Whether ``size`` bytes of pixels fit in memory; true where unknown."""
    available = available_memory()
    return available is None or size <= _MEMORY_SHARE * available


def check_memory(shape: tuple[int, int, int, int]) -> None:
    """Raise `InputError` if uint8 pixels of this shape do not fit in memory."""
    available = available_memory()
    needed = math.prod(shape)
    if available is None or needed <= _MEMORY_SHARE * available:
        return
    count, channels, height, width = shape
    most = int(_MEMORY_SHARE * available)
    tall = math.isqrt(most * height // (count * channels * width))
    wide = math.isqrt(most * width // (count * channels * height))
    asked = resolution_text((height, width))
    raise InputError(
        f"{count:,} images at resolution {asked} need {needed / 1e9:.1f} GB of memory, "
        f"{available / 1e9:.1f} GB are available and {_MEMORY_SHARE:.0%} of that may be used; "
        f"--resolution {resolution_text((tall, wide))} would fit"
    )


def _left_in_container(limit: str, used: str, statistics: str) -> int | None:
    """Return the bytes a container may still take, ``None`` without a limit.

    Its inactive page cache counts as free.
    """
    most, taken, parts = (_lines(CONTROL_GROUPS / name) for name in (limit, used, statistics))
    if not (most and taken and parts and most[0].strip().isdigit()):
        return None
    lines = dict(line.split() for line in parts)
    cached = lines.get("total_inactive_file", lines.get("inactive_file", 0))
    return max(int(most[0]) - int(taken[0]) + int(cached), 0)


def _own_cores() -> int:
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return every or 1


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of their ancestors.

    A container may see its own group as the top one, and a path in ``/proc/self/cgroup`` that does
    not exist there, so the top mounted folder is always yielded.
    """
    own: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = (*line.split(":", 2), "", "")[:3]
        own |= dict.fromkeys(names.split(","), path)  # version 2 has an empty name
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        fields, options = mount.split(), kind.split()
        if len(fields) < 5 or len(options) < 3:
            continue
        name = "" if options[0] == "cgroup2" else "cpu"
        if options[0] not in ("cgroup", "cgroup2") or name not in ("", *options[2].split(",")):
            continue
        top = root / _unescaped(fields[4]).lstrip("/")
        try:
            below = PurePosixPath(own.get(name, "/")).relative_to(_unescaped(fields[3]))
        except ValueError:
            below = PurePosixPath()
        yield top
        if ".." not in below.parts:
            yield from (top / part for part in (below, *below.parents) if part.parts)


def _quota(folder: Path) -> float | None:
    limit = _lines(folder / "cpu.max")
    numbers = limit[0].split() if limit else []
    if not numbers:
        numbers = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    try:
        quota, period = map(int, numbers)
    except ValueError:  # "max", or not two
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, ValueError):
        return []


def _unescaped(path: str) -> str:
    """Return a mountinfo path with its octal escapes (of blanks, for example) decoded."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)

"""How much memory there is, and whether pixels fit it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from mobilette.errors import InputError

_MEMORY_SHARE = 0.6

# Where Linux tells a container its limit, what it has taken, and what of that: versions 2 and 1.
CONTROL_GROUPS = Path("/sys/fs/cgroup")
_CONTAINER = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available_memory() -> int | None:
    """Return how many bytes could be allocated without swapping; None where nothing tells."""
    limits = []
    try:
        # "Available" counts the page cache, which is given back; os.sysconf's free pages do not.
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        limits += [
            int(line.split()[1]) * 1024
            for line in text.splitlines()
            if line.startswith("MemAvailable:")
        ]
    except OSError:
        pass
    for container in _CONTAINER:
        left = _left_in_container(*container)
        limits += [] if left is None else [left]
    names: Iterable[str] = getattr(os, "sysconf_names", ())  # not on Windows
    if not limits and "SC_PHYS_PAGES" in names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def _left_in_container(limit: str, used: str, statistics: str) -> int | None:
    """Return the bytes that a container may still take, ``None`` where it has no limit.

    Its page cache counts as free as far as it is not in use.
    """
    try:
        most, taken, parts = (
            (CONTROL_GROUPS / name).read_text(encoding="ascii")
            for name in (limit, used, statistics)
        )
    except OSError:
        return None
    if not most.strip().isdigit():
        return None
    lines = dict(line.split() for line in parts.splitlines())
    cached = lines.get("total_inactive_file", lines.get("inactive_file", 0))
    return max(int(most) - int(taken) + int(cached), 0)


def fits_memory(size: int) -> bool:
    """Whether ``size`` bytes of pixels may be held in memory; yes where nothing tells."""
    available = available_memory()
    return available is None or size <= _MEMORY_SHARE * available


def check_memory(shape: tuple[int, int, int, int]) -> None:
    """Raise `InputError` if uint8 pixels of this shape do not fit the memory."""
    available = available_memory()
    needed = math.prod(shape)
    if available is None or needed <= _MEMORY_SHARE * available:
        return
    count, channels, resolution, _ = shape
    fits = math.isqrt(int(_MEMORY_SHARE * available) // (count * channels))
    raise InputError(
        f"{count:,} images at resolution {resolution} need {needed / 1e9:.1f} GB of memory, "
        f"{available / 1e9:.1f} GB are there and {_MEMORY_SHARE:.0%} of it may be used; "
        f"--resolution {fits} would fit"
    )

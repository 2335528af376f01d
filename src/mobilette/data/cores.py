"""How many cores there are to use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return how many cores this process may run on, of those that `torchrun` shares out."""
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((every or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)

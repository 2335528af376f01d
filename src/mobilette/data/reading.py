"""Many pictures into one array: decoded, hashed and resized, in worker processes or here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.data.content import lies_in_file
from mobilette.data.pictures import Picture
from mobilette.data.preprocess import Preprocess
from mobilette.data.store import PictureStore
from mobilette.data.workers import Decoder
from mobilette.errors import InputError

# Starting a process costs about as much as decoding this many pictures.
_WORTH_PROCESSES = 512
_MEMORY_SHARE = 0.6

# Where Linux tells a container its limit, what it has taken, and what of that: versions 2 and 1.
CONTROL_GROUPS = Path("/sys/fs/cgroup")
_CONTAINER = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)

# Called with (pictures read, pictures in all).
LoadReport = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """The usable ones among some pictures, in their order.

    Attributes:
        pixels: uint8 of shape (N, C, R, R), contiguous.
        positions: which of the pictures these are, int64 of shape (N,).
        digests: SHA-256, in hex, of each.
        unusable: name and reason of each other picture.
    """

    pixels: NDArray[np.uint8]
    positions: NDArray[np.int64]
    digests: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]


def read_pictures(
    pictures: Sequence[Picture],
    *,
    resolution: int,
    preprocess: Preprocess,
    workers: int = 0,
    max_unusable: float = 0.1,
    on_progress: LoadReport | None = None,
) -> Reading:
    """Decode, hash and resize pictures; the result does not depend on ``workers``.

    Args:
        pictures: what to read.
        resolution: side of the result, in pixels.
        preprocess: how to resize; its mean and std are not applied.
        workers: decode in this many processes if above 1; few pictures, and pictures that are in
            memory already, are always decoded here.
        max_unusable: the fraction of pictures that may be unusable.
        on_progress: called with the number of pictures done and their total.

    Raises:
        InputError: the array does not fit the memory, too many pictures are unusable, or a
            worker process died.
    """
    check_fraction(max_unusable)
    decoder = Decoder(preprocess=preprocess, resolution=resolution, of_pixels=True)
    check_memory((len(pictures), *decoder.row_shape))
    store = PictureStore(
        pictures,
        decoder,
        reduced=[False] * len(pictures),
        workers=workers,
        max_unusable=max_unusable,
    )
    return read_all(store, on_progress=on_progress)


def read_all(store: PictureStore, *, on_progress: LoadReport | None = None) -> Reading:
    """Read every picture of a store into one array and close the store.

    Raises:
        InputError: as for `read_pictures`.
    """
    missing = store.missing()
    files = sum(lies_in_file(store.pictures[position]) for position in missing)
    if store.workers < 2 or files < _WORTH_PROCESSES:
        store.workers = 0
    pixels = np.empty((len(store), *store.row_shape), np.uint8)
    try:
        store.fill(range(len(store)), pixels, progress=on_progress)
    finally:
        store.close()
    store.check_unusable()
    positions = [position for position in range(len(store)) if position not in store.broken]
    for place, position in enumerate(positions):
        if place != position:
            pixels[place] = pixels[position]
    return Reading(
        pixels=pixels[: len(positions)],
        positions=np.array(positions, np.int64),
        digests=tuple(store.digests[position].hex() for position in positions),
        unusable=store.unusable(),
    )


def check_fraction(max_unusable: float) -> None:
    """Raise `InputError` unless ``max_unusable`` is a fraction."""
    if not 0 <= max_unusable <= 1:
        raise InputError(f"--max-unusable {max_unusable} must be a fraction from 0 to 1")


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
        f"{count:,} pictures at resolution {resolution} need {needed / 1e9:.1f} GB of memory, "
        f"{available / 1e9:.1f} GB are there and {_MEMORY_SHARE:.0%} of it may be used; "
        f"--resolution {fits} would fit"
    )

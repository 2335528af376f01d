"""Many pictures into one array: decoded, hashed and resized, in worker processes or here."""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.decoding import UnusablePicture
from mobilette.data.preprocess import Preprocess
from mobilette.data.sources import Picture
from mobilette.errors import InputError

_CHUNK = 64
# Starting a process costs about as much as decoding this many pictures.
_WORTH_PROCESSES = 512
_MEMORY_SHARE = 0.6

# Called with (pictures read, pictures in all).
LoadReport = Callable[[int, int], None]
_Outcome = tuple[NDArray[np.uint8], str] | str


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """The usable ones among some pictures, in their order.

    Attributes:
        pixels: uint8 of shape (N, C, R, R), contiguous.
        positions: which of the pictures these are, int64 of shape (N,).
        digests: ``pixel_sha256`` of each.
        unusable: name and reason of each other picture.
    """

    pixels: NDArray[np.uint8]
    positions: NDArray[np.int64]
    digests: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]


def pixel_sha256(image: Image.Image) -> str:
    """Return the SHA-256, in hex, of a decoded picture: its mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def read_pictures(
    pictures: Sequence[Picture],
    *,
    resolution: int,
    preprocess: Preprocess,
    workers: int = 0,
    max_unusable: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
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
    if not 0 <= max_unusable <= 1:
        raise InputError(f"--max-unusable {max_unusable} must be a fraction from 0 to 1")
    shape = (len(pictures), preprocess.channels, resolution, resolution)
    _check_memory(shape)
    pixels = np.empty(shape, np.uint8)
    positions: list[int] = []
    digests: list[str] = []
    unusable: list[tuple[str, str]] = []
    outcomes = _outcomes(pictures, resolution, preprocess, workers)
    for done, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, str):
            unusable.append((pictures[done - 1].name, outcome))
        else:
            pixels[len(positions)], digest = outcome
            positions.append(done - 1)
            digests.append(digest)
        if on_progress is not None and (done % _CHUNK == 0 or done == len(pictures)):
            on_progress(done, len(pictures))
    if len(unusable) > max_unusable * len(pictures):
        name, reason = unusable[0]
        raise InputError(
            f"{len(unusable)} of {len(pictures)} pictures cannot be used, more than the fraction "
            f"{max_unusable:g} that --max-unusable allows; the first is {name}: {reason}"
        )
    return Reading(
        pixels=pixels[: len(positions)],
        positions=np.array(positions, np.int64),
        digests=tuple(digests),
        unusable=tuple(unusable),
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
        container = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        limits += [int(container)] if container.isdigit() else []
    except OSError:
        pass
    names: Iterable[str] = getattr(os, "sysconf_names", ())  # not on Windows
    if not limits and "SC_PHYS_PAGES" in names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def _check_memory(shape: tuple[int, int, int, int]) -> None:
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


def _outcomes(
    pictures: Sequence[Picture], resolution: int, preprocess: Preprocess, workers: int
) -> Iterator[_Outcome]:
    """Yield pixels and hash, or else the reason why there are none, in the pictures' order."""
    files = sum(isinstance(picture.content, Path) for picture in pictures)
    if workers < 2 or files < _WORTH_PROCESSES:
        for picture in pictures:
            yield _read_one(picture, resolution, preprocess)
        return
    chunks = (pictures[start : start + _CHUNK] for start in range(0, len(pictures), _CHUNK))
    waiting: deque[Future[list[_Outcome]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_read_chunk, chunk, resolution, preprocess))
                # A bound on what waits, or finished chunks would fill the memory a second time.
                if len(waiting) > 4 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                "a process that decodes pictures died; --workers 0 decodes without processes "
                "(a script that uses workers needs `if __name__ == '__main__':`)"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_chunk(
    pictures: Sequence[Picture], resolution: int, preprocess: Preprocess
) -> list[_Outcome]:
    return [_read_one(picture, resolution, preprocess) for picture in pictures]


def _read_one(picture: Picture, resolution: int, preprocess: Preprocess) -> _Outcome:
    try:
        image = picture.open()
    except UnusablePicture as error:
        return str(error)
    return preprocess.geometry(image, resolution), pixel_sha256(image)

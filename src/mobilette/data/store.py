"""The images of one set as rows, whether cached on disk or still encoded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mobilette.data.cache import ImageCache
from mobilette.data.images import LabelledImage
from mobilette.data.workers import (
    CHUNK,
    Decoder,
    Job,
    NoWorkers,
    Outcome,
    WorkerPool,
    why_no_processes,
)
from mobilette.errors import InputError
from mobilette.limits import WORKERS
from mobilette.progress import SILENT, Advance, Remark

_NAMED = 5  # broken images that remarks name; dataset.json names all
_PROGRESS = 64

Positions = Sequence[int] | NDArray[np.int64]


class ImageStore:
    """Rows of pixels by position, decoded if they are not in the cache.

    One thread may ask for rows at a time. ``workers`` threads read the cache and hand what is
    missing to one process each, started when first needed. Where no process can be started, the
    threads decode themselves. With 0 workers everything runs in the caller's thread.

    Attributes:
        images: the set.
        decoder: how they become rows.
        digests: SHA-256 of each image seen so far, by position.
        broken: why an image is unusable, by position.
        decoded: how many images were decoded so far.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        decoder: Decoder,
        *,
        reduced: Sequence[bool],
        cache: ImageCache | None = None,
        workers: int = 0,
        max_unusable: float = 1.0,
        remark: Remark = SILENT.remark,
    ) -> None:
        WORKERS.check("--workers", workers)
        self.images, self.decoder = images, decoder
        self.digests: dict[int, bytes] = {}
        self.broken: dict[int, str] = {}
        self.decoded = 0
        self._reduced, self._cache, self.workers = reduced, cache, workers
        self._max_unusable, self._remark = max_unusable, remark
        self._remarked: set[int | str] = set()  # broken images, and lines
        self._cache_fault: str | None = None
        self._no_workers: str | None = None
        self._count = threading.Lock()
        self._pool: WorkerPool | None = None
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of a row."""
        return self.decoder.row_shape

    def missing(self) -> list[int]:
        """Return the positions of images still to be decoded."""
        if self._cache is None:
            return list(range(len(self)))
        found = {position: self._cache.digest(position) for position in range(len(self))}
        self.digests |= {position: digest for position, digest in found.items() if digest}
        return [position for position, digest in found.items() if digest is None]

    def start(self, positions: Positions, out: NDArray[np.uint8]) -> list[Future[None]]:
        """Begin to read rows into ``out``, (N, C, H, W), which is full when the futures are done.

        Rows of broken images are left unchanged.
        """
        pieces = [(piece, out[first : first + CHUNK]) for first, piece in _cut(positions)]
        if self.workers < 1:
            for piece in pieces:
                self._read(*piece)
            return []
        if self._threads is None:
            self._no_workers = self._no_workers or why_no_processes()
            if self._no_workers is None:
                self._pool = WorkerPool(self.workers, self.decoder, self._cache)
            self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="images")
        return [self._threads.submit(self._read, *piece) for piece in pieces]

    def fill(
        self,
        positions: Positions,
        out: NDArray[np.uint8] | None,
        *,
        progress: Advance | None = None,
    ) -> None:
        """Read rows into ``out`` like `start`, a few pieces ahead, and wait for them.

        Without ``out``, images are only decoded for the cache and for their digests.
        """
        waiting: deque[tuple[int, list[Future[None]]]] = deque()
        done = 0

        def finish() -> None:
            nonlocal done
            count, futures = waiting.popleft()
            for future in futures:
                future.result()
            before, done = done, done + count
            if progress is not None and (
                done // _PROGRESS > before // _PROGRESS or done == len(positions)
            ):
                progress(done, len(positions))

        try:
            for first, piece in _cut(positions):
                if out is None:
                    rows = np.empty((len(piece), *self.row_shape), np.uint8)
                else:
                    rows = out[first : first + CHUNK]
                waiting.append((len(piece), self.start(piece, rows)))
                while len(waiting) > 4 * self.workers:
                    finish()
            while waiting:
                finish()
        finally:
            cancel(future for _, futures in waiting for future in futures)
        self._remark_on_the_machine()

    def unusable(self) -> tuple[tuple[str, str], ...]:
        """Return name and reason of the images found broken so far."""
        found = sorted(self.broken.items())
        return tuple((self.images[position].name, reason) for position, reason in found)

    def check_unusable(self) -> None:
        """Raise `InputError` if more images are broken than ``max_unusable`` allows."""
        if len(self.broken) <= self._max_unusable * len(self):
            return
        name, reason = self.unusable()[0]
        raise InputError(
            f"{len(self.broken)} of {len(self)} images cannot be used, more than the fraction "
            f"{self._max_unusable:g} that --max-unusable allows; the first is {name}: {reason}"
        )

    def report_failures(self) -> None:
        """Remark on failures since the last call.

        Raises:
            InputError: too many images are broken.
        """
        self._remark_on_the_machine()
        known = {position for position in self._remarked if isinstance(position, int)}
        for position in sorted(set(self.broken) - known):
            known.add(position)
            if len(known) <= _NAMED:
                more = "; further ones are only counted" if len(known) == _NAMED else ""
                name = self.images[position].name
                self._remark(f"{name}: left out, {self.broken[position]}{more}")
        self._remarked |= known
        self.check_unusable()

    def forget_failures(self) -> None:
        """Count currently broken images as known, so that no remark mentions them."""
        self._remarked |= set(self.broken)

    def close(self) -> None:
        """End all threads and processes; the next request for rows restarts them."""
        if self._pool is not None:
            self._pool.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        if self._cache is not None:
            self._cache.close()
        self._pool = self._threads = None

    def _remark_on_the_machine(self) -> None:
        """Remark once if threads decode, or if decoded images can no longer be cached."""
        lines = []
        if self._no_workers is not None and self.decoded:
            lines.append(f"images are decoded by threads, not by processes: {self._no_workers}")
        if self._cache is not None and self._cache_fault is not None:
            lines.append(
                f"{self._cache.folder}: no more decoded images can be cached "
                f"({self._cache_fault}); the others are decoded each time"
            )
        for line in lines:
            if line not in self._remarked:
                self._remarked.add(line)
                self._remark(line)

    def _read(self, positions: list[int], out: NDArray[np.uint8]) -> None:
        places = []
        for place, position in enumerate(positions):
            if position in self.broken:
                continue
            digest = None if self._cache is None else self._cache.read(position, out[place])
            if digest is None:
                places.append(place)
            else:
                self.digests[position] = digest
        if places:
            self._decode([self._job(positions[place]) for place in places], out, places)

    def _job(self, position: int) -> Job:
        return Job(row=position, image=self.images[position], reduced=self._reduced[position])

    def _decode(self, jobs: list[Job], out: NDArray[np.uint8], places: list[int]) -> None:
        outcomes, fault = self._outcomes(jobs, out, places)
        with self._count:
            self.decoded += len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, bytes):
                self.digests[job.row] = outcome
            else:
                self.broken[job.row] = outcome
        self._cache_fault = self._cache_fault or fault

    def _outcomes(
        self, jobs: list[Job], out: NDArray[np.uint8], places: list[int]
    ) -> tuple[list[Outcome], str | None]:
        """Decode images like `WorkerPool.decode`, in a process or here."""
        pool = self._pool
        if pool is not None and self._no_workers is None:
            try:
                if not any(job.image.in_memory for job in jobs):
                    return pool.decode(jobs, out, places)
            except NoWorkers as error:
                self._no_workers = str(error)
        outcomes = self.decoder.decode_all(jobs, [out[place] for place in places], self._cache)
        return outcomes, None if self._cache is None else self._cache.fault


class StreamedPixels:
    """Rows of an `ImageStore`, indexed like an array uint8 (N, C, H, W).

    ``positions``, int64 (N,), is the position of every row in ``store``, which the set's splits
    share.
    """

    def __init__(self, store: ImageStore, positions: NDArray[np.int64]) -> None:
        self.store, self.positions = store, positions

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape (N, C, H, W)."""
        return (len(self.positions), *self.store.row_shape)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read and return the rows; those of broken images are zeros (see `usable`).

        Raises:
            InputError: too many images are broken, or a worker process died.
        """
        positions = self.positions[key]
        out = np.zeros((len(positions), *self.store.row_shape), np.uint8)
        self.store.fill(positions, out)
        self.store.report_failures()
        return out

    def part(self, first: int, last: int) -> StreamedPixels:
        """Return rows ``first`` to before ``last``, without reading them."""
        return StreamedPixels(self.store, self.positions[first:last])

    def usable(self) -> NDArray[np.bool_]:
        """Return, bool (N,), which rows are not known to be broken."""
        broken = self.store.broken
        return np.array([int(position) not in broken for position in self.positions], np.bool_)


Pixels: TypeAlias = NDArray[np.uint8] | StreamedPixels


def part_of(pixels: Pixels, first: int, last: int) -> Pixels:
    """Return a range of rows without copying or reading them."""
    return pixels.part(first, last) if isinstance(pixels, StreamedPixels) else pixels[first:last]


def cancel(futures: Iterable[Future[None]]) -> None:
    """Cancel what has not begun."""
    for future in futures:
        future.cancel()


def _cut(positions: Positions) -> Iterator[tuple[int, list[int]]]:
    """Yield pieces of ``CHUNK`` positions, each with its start."""
    for first in range(0, len(positions), CHUNK):
        yield first, [int(position) for position in positions[first : first + CHUNK]]

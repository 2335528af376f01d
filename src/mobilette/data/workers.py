"""Decode images to rows, here or in worker processes that share memory with this one."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.arch.scale import Resolution, size_of
from mobilette.data.cache import ImageCache
from mobilette.data.decoding import decode, decode_reduced
from mobilette.data.formats import UnusableImage
from mobilette.data.images import LabelledImage, pixel_sha256
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError

# Images sent to a process at once.
CHUNK = 16

# A decoded image's SHA-256, or why it cannot be decoded.
Outcome = bytes | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One image to decode into cache row ``row``; ``reduced`` permits `decode_reduced`."""

    row: int
    image: LabelledImage
    reduced: bool


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """How the images of one set become rows.

    With ``of_pixels``, an image's SHA-256 is that of its decoded pixels and no job may be
    ``reduced``; otherwise it is that of the file, if there is one.
    """

    preprocess: Preprocess
    resolution: Resolution
    of_pixels: bool

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of a row."""
        return self.preprocess.channels, *size_of(self.resolution)

    def decode(self, job: Job, out: NDArray[np.uint8]) -> Outcome:
        """Write the image's row to ``out``, (C, H, W); return its SHA-256 or why it is unusable."""
        try:
            if job.image.in_memory:
                image = job.image.open()
                self.put(image, out)
                return bytes.fromhex(pixel_sha256(image))
            data = job.image.read()
            if job.reduced:
                image, full = decode_reduced(data, self._shrinking)
                self.put(image, out, full)
            else:
                image = decode(data)
                self.put(image, out)
        except UnusableImage as error:
            return str(error)
        except MemoryError:
            return "too large for the memory"
        if self.of_pixels:
            return bytes.fromhex(pixel_sha256(image))
        return hashlib.sha256(data).digest()

    def put(
        self, image: Image.Image, out: NDArray[np.uint8], full_size: tuple[int, int] | None = None
    ) -> None:
        """Write a decoded image's row to ``out``; ``full_size`` is that before `decode_reduced`."""
        out[...] = self.preprocess.geometry(image, self.resolution, full_size=full_size)

    def decode_all(
        self, jobs: Sequence[Job], out: Sequence[NDArray[np.uint8]], cache: ImageCache | None
    ) -> list[Outcome]:
        """Decode ``jobs`` into the first rows of ``out``, and into the ``cache``."""
        outcomes = [self.decode(job, row) for job, row in zip(jobs, out, strict=False)]
        for job, row, outcome in zip(jobs, out, outcomes, strict=False):
            if cache is not None and isinstance(outcome, bytes):
                cache.write(job.row, row, outcome)
        return outcomes

    def _shrinking(self, size: tuple[int, int]) -> float:
        return self.preprocess.shrinking(size, self.resolution)


class NoWorkers(Exception):
    """No process can be started; the message says why."""


class WorkerDied(Exception):
    """A process died while decoding its images."""


class Worker:
    """A process that decodes up to ``CHUNK`` images at a time.

    It ends when this process ends for any reason, because it reads from a pipe.
    """

    def __init__(self, decoder: Decoder, cache: ImageCache | None) -> None:
        context = get_context("spawn")
        shape = (CHUNK, *decoder.row_shape)
        # Anonymous shared memory: nothing is left behind if this process is killed.
        memory = context.RawArray(ctypes.c_uint8, int(np.prod(shape)))
        self._rows = np.ctypeslib.as_array(memory).reshape(shape)
        self._pipe, other = context.Pipe()
        self._is_up = False
        place = None if cache is None else (cache.folder, cache.shape)
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(other, memory, decoder, place), daemon=True
        )
        with _no_interrupts():
            self._process.start()
        other.close()

    def decode(
        self, jobs: Sequence[Job], out: NDArray[np.uint8], places: Sequence[int]
    ) -> tuple[list[Outcome], str | None]:
        """Decode ``jobs``, each into the row of ``out`` given by ``places``.

        Returns:
            The outcomes, and the fault of the process's cache.

        Raises:
            NoWorkers: the process could not start.
            WorkerDied: it died during these jobs.
        """
        try:
            if not self._is_up:
                self._pipe.recv()
                self._is_up = True
            self._pipe.send(jobs)
            outcomes, fault = self._pipe.recv()
        except (EOFError, OSError) as error:
            if self._is_up:
                raise WorkerDied from error
            raise NoWorkers("one died as it began") from error
        for place, row, outcome in zip(places, self._rows, outcomes, strict=False):
            if isinstance(outcome, bytes):
                out[place] = row
        return outcomes, fault

    def stop(self) -> None:
        """End the process, even while another thread waits in `decode`."""
        self._process.terminate()
        self._process.join()


class WorkerPool:
    """Up to ``count`` worker processes for as many threads, started when needed."""

    def __init__(self, count: int, decoder: Decoder, cache: ImageCache | None) -> None:
        self.count, self._decoder, self._cache = count, decoder, cache
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._all: list[Worker] = []
        self._closed = False

    def decode(
        self, jobs: Sequence[Job], out: NDArray[np.uint8], places: Sequence[int]
    ) -> tuple[list[Outcome], str | None]:
        """Decode ``jobs`` like `Worker.decode` in an idle process.

        If it dies, other processes get its images one by one; an image that kills another is
        unusable.

        Raises:
            NoWorkers: no process can be started.
        """
        with suppress(WorkerDied):
            return self._decode(jobs, out, places)
        outcomes: list[Outcome] = []
        fault = None
        for job, place in zip(jobs, places, strict=True):
            try:
                (outcome,), fault = self._decode([job], out, [place])
            except WorkerDied:
                outcome = "the process that decoded it died"
            outcomes.append(outcome)
        return outcomes, fault

    def _decode(
        self, jobs: Sequence[Job], out: NDArray[np.uint8], places: Sequence[int]
    ) -> tuple[list[Outcome], str | None]:
        with self._lock:
            if self._closed:
                raise InputError("the dataset is closed")
            if self._idle:
                worker = self._idle.pop()
            else:
                try:
                    worker = Worker(self._decoder, self._cache)
                except (OSError, RuntimeError, AssertionError) as error:
                    raise NoWorkers(str(error)) from error
                self._all.append(worker)
        try:
            answer = worker.decode(jobs, out, places)
        except WorkerDied:  # it is not used again
            if self._closed:
                raise InputError("the dataset is closed") from None
            raise
        with self._lock:
            self._idle.append(worker)
        return answer

    def close(self) -> None:
        """End all processes; images being decoded are lost."""
        with self._lock:
            self._closed = True
            workers, self._all, self._idle = self._all, [], []
        for worker in workers:
            worker.stop()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which the terminal sends to all."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    pipe: Connection,
    memory: ctypes.Array[ctypes.c_uint8],
    decoder: Decoder,
    place: tuple[Path, tuple[int, ...]] | None,
) -> None:
    # On Windows a Ctrl-C reaches this process, which ends when the other one does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rows = list(np.ctypeslib.as_array(memory).reshape(CHUNK, *decoder.row_shape))
    cache = None
    if place is not None:
        with suppress(OSError):  # removed meanwhile
            cache = ImageCache(*place)
    with suppress(EOFError, OSError):
        pipe.send(None)  # ready
        while True:
            outcomes = decoder.decode_all(pipe.recv(), rows, cache)
            pipe.send((outcomes, cache.fault if cache is not None else None))


def why_no_processes() -> str | None:
    """Return why no worker processes can be started; ``None`` if they can.

    A new process first imports the program's main module. Where that cannot be imported, or would
    repeat what this process is doing, threads decode.
    """
    if multiprocessing.current_process().daemon:
        return "a daemonic process cannot start any"
    main = sys.modules.get("__main__")
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if file is None or (spec is not None and spec.name.rpartition(".")[2] == "__main__"):
        return None  # `python -c`, a notebook or a package: nothing is imported
    try:
        program = ast.parse(Path(file).read_bytes())
    except OSError:
        return f"the program, {file}, is not a file that they could import"
    except (SyntaxError, ValueError):  # compiled, or a shell script with Python inside
        return None
    line = _line_in(vars(main))
    if line is None or _is_guarded(program, line):
        return None
    return f'`if __name__ == "__main__":` is missing around line {line} of {file}'


def _line_in(main: dict[str, object]) -> int | None:
    """Return the line of the main module that its thread is executing, if any."""
    ident = threading.main_thread().ident
    frame: FrameType | None = sys._current_frames().get(ident or 0)
    line = None
    while frame is not None:
        if frame.f_globals is main and frame.f_code.co_name == "<module>":
            line = frame.f_lineno
        frame = frame.f_back
    return line


def _is_guarded(program: ast.Module, line: int) -> bool:
    for each in ast.walk(program):
        if isinstance(each, ast.If) and each.lineno <= line <= (each.end_lineno or line):
            names = {part.id for part in ast.walk(each.test) if isinstance(part, ast.Name)}
            if "__name__" in names:
                return True
    return False

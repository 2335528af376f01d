"""`Engines`: threads that answer images in batches, as many at once as are waiting."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.engines.predictor import Predictor
from mobilette.serving.settings import Work

Row = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    predictor: Predictor
    pixels: NDArray[np.uint8]
    answer: Future[Row]


class Engines:
    """A pool of threads that executes engines.

    A call takes the images that wait for the same predictor, at most ``work.max_batch``. If there
    are fewer, it waits up to ``work.window_s`` for those that are being decoded; if none are, for
    nothing. While every thread is busy, images gather by themselves.

    Args:
        on_batch: called with the number of images of each call.
    """

    def __init__(self, work: Work, *, on_batch: Callable[[int], None]) -> None:
        self._work, self._on_batch = work, on_batch
        self._waiting: deque[_Waiting] = deque()
        self._coming = 0
        self._closed = False
        self._changed = threading.Condition()
        self._gathering = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"engine-{number}", daemon=True)
            for number in range(work.engines)
        ]
        for thread in self._threads:
            thread.start()

    def announce(self, images: int) -> None:
        """Say that ``images`` are being decoded: each is submitted or given up later."""
        with self._changed:
            self._coming += images

    def give_up(self) -> None:
        """Say that an announced image cannot be decoded."""
        with self._changed:
            self._coming -= 1
            self._changed.notify_all()

    def submit(self, predictor: Predictor, pixels: NDArray[np.uint8], answer: Future[Row]) -> None:
        """Let ``answer`` have the logits (classes,) of an announced image's ``pixels`` (C, H, W).

        An answer that was cancelled in the meantime costs nothing.
        """
        with self._changed:
            self._coming -= 1
            self._waiting.append(_Waiting(predictor=predictor, pixels=pixels, answer=answer))
            self._changed.notify_all()

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._answer(batch)

    def _next(self) -> list[_Waiting] | None:
        """Return a batch, empty if all were cancelled; ``None`` once there are no more."""
        with self._gathering, self._changed:  # one thread gathers, the others have work or wait
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            predictor, until = self._waiting[0].predictor, time.monotonic() + self._work.window_s
            while self._coming > 0 and self._count(predictor) < self._work.max_batch:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._take(predictor)

    def _count(self, predictor: Predictor) -> int:
        return sum(each.predictor is predictor for each in self._waiting)

    def _take(self, predictor: Predictor) -> list[_Waiting]:
        """Return the first images that wait for ``predictor``, the others left in order."""
        taken: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._waiting and len(taken) < self._work.max_batch:
            each = self._waiting.popleft()
            if each.predictor is not predictor:
                others.append(each)
            elif not each.answer.cancelled():
                taken.append(each)
        self._waiting.extendleft(reversed(others))
        return taken

    def _answer(self, batch: list[_Waiting]) -> None:
        self._on_batch(len(batch))
        try:
            logits = batch[0].predictor.batch_logits(np.stack([each.pixels for each in batch]))
        except Exception as error:  # whatever it is: the requests get it, the thread goes on
            for each in batch:
                fail(each.answer, error)
            return
        for each, row in zip(batch, logits, strict=True):
            with suppress(InvalidStateError):  # cancelled
                each.answer.set_result(row)


def fail(answer: Future[Row], error: Exception) -> None:
    """Let ``answer`` raise ``error``, unless it was cancelled."""
    with suppress(InvalidStateError):
        answer.set_exception(error)

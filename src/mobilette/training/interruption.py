"""Ctrl-C between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

_HANG_UP = (signal.SIGHUP,) if sys.platform != "win32" else ()


class StopRequest:
    """While active, the first Ctrl-C (SIGTERM, SIGHUP) is only noted; the second stops at once.

    Kernel and shell both send SIGHUP when a terminal is closed, so that one more says nothing new;
    where it is ignored, as under ``nohup``, it stays ignored. Outside the main thread, where Python
    delivers no signals, nothing is noted.

    Attributes:
        requested: whether there was one.
        patient: note every one: `torchrun` passes on the Ctrl-C that the terminal sent already, and
            ends itself what does not end within half a minute.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.requested, self.patient = False, patient
        self._previous: list[tuple[signal.Signals, signal._HANDLER]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *_HANG_UP):
                handler = signal.getsignal(number)
                if handler is None or (handler is signal.SIG_IGN and number in _HANG_UP):
                    continue  # None: of the program that Python is part of
                self._previous.append((number, handler))
                signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._previous:
            signal.signal(*self._previous.pop())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.patient and number not in _HANG_UP:
            raise KeyboardInterrupt
        self.requested = True

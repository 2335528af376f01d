"""Ctrl-C between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class StopRequest:
    """While active, the first Ctrl-C (or SIGTERM) is only noted; the second stops at once.

    Outside the main thread, where Python delivers no signals, it notes nothing.

    Attributes:
        requested: whether there was one.
        patient: note every one: `torchrun` passes on the Ctrl-C that the terminal sent already, and
            ends itself what does not end within half a minute.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, patient: bool = False) -> None:
        self.requested, self.patient = False, patient
        self._previous: list[tuple[signal.Signals, signal._HANDLER]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = [(number, signal.getsignal(number)) for number in self.SIGNALS]
            for number in self.SIGNALS:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.patient:
            raise KeyboardInterrupt
        self.requested = True

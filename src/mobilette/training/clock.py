"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import torch

from mobilette.training.events import Profiled

Now = Callable[[], float]  # seconds, of any beginning
# The first steps make what later ones find: kernels, buffers, memory.
WARM_UP = 3


class Clock(Protocol):
    """Is told when a part of a step is done."""

    def start(self) -> None:
        """A step begins."""

    def lap(self, name: str) -> None:
        """The part ``name`` of the step has just ended."""

    def count(self, images: int) -> None:
        """A step with so many images is over."""


class NoClock:
    """Measures nothing, and so never waits for the device."""

    def start(self) -> None:
        """Do nothing."""

    def lap(self, name: str) -> None:
        """Do nothing."""

    def count(self, images: int) -> None:
        """Do nothing."""


class Stopwatch:
    """Sums up the seconds of each part; waits for the device after every one."""

    def __init__(self, device: torch.device, *, now: Now = time.perf_counter) -> None:
        self.device, self.now = device, now
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = now()
        self._steps = -WARM_UP
        self._images = 0

    def start(self) -> None:
        """Begin to measure a step."""
        self._since = self._now()

    def lap(self, name: str) -> None:
        """Count the time since the last lap, or the start, for ``name``."""
        now = self._now()
        self._seconds[name] += now - self._since
        self._since = now

    def count(self, images: int) -> None:
        """End a step with so many images; the first few are forgotten."""
        self._steps += 1
        self._images += images
        if self._steps == 0:
            self._seconds.clear()
            self._images = 0

    def result(self) -> Profiled:
        """Return what was measured, of a short run the warm-up."""
        seconds = dict(self._seconds)
        total = sum(seconds.values())
        return Profiled(
            steps=self._steps if self._steps > 0 else self._steps + WARM_UP,
            images_per_second=self._images / total if total else 0.0,
            seconds=seconds,
        )

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return self.now()

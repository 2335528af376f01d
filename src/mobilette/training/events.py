"""Events of a training run, a profile of its steps, TensorBoard."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mobilette.errors import InputError, shown
from mobilette.progress import SILENT, Reporter
from mobilette.run.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """Sent after every step; ``part`` is the fraction of the run done, 0 to 1."""

    epoch: int
    epochs: int | None
    step: int
    steps: int
    images_per_second: float
    loss: float
    part: float


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """Sent after every validation.

    ``epoch`` is the epochs done, fractional if the time ran out within one; ``step`` counts the
    whole run; ``frozen`` means that only the head has been trained so far.
    """

    epoch: float
    frozen: bool
    step: int
    lr: float
    train_loss: float
    metrics: Metrics
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """Sent at the end of a profiled run of ``steps`` measured steps.

    ``seconds`` is the total by part of a step: ``data`` (waiting for pixels), ``augmentation``,
    ``forward``, ``backward``, ``optimiser``; the last three are ``captured`` in a graph.
    """

    steps: int
    images_per_second: float
    seconds: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


Event = StepDone | EpochDone | Profiled
Listener = Callable[[Event], None]
Now = Callable[[], float]  # seconds, from any beginning


def _ignore(event: Event) -> None:
    pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Sitting:
    """One sitting of a run, from a start or resume to its end: its listeners and clock.

    An exception from ``report`` ends the sitting at once, one from ``callbacks`` after the step,
    with the state saved. ``started`` is when the sitting began, by ``now``, in seconds.
    ``setup_is_free``: time limits begin once images and weights are read; else with the
    sitting.
    """

    report: Listener = _ignore
    callbacks: tuple[Listener, ...] = ()
    reporter: Reporter = SILENT
    tensorboard: bool = False
    now: Now = time.perf_counter
    started: float = 0.0
    setup_is_free: bool = False

    def begin(self) -> Sitting:
        """Return the sitting, started now; `InputError` for a bad callback or no TensorBoard."""
        for callback in self.callbacks:
            if not callable(callback):
                raise InputError(f"callbacks: {shown(callback)} is not a function of an event")
        if self.tensorboard:
            check_tensorboard()
        return replace(self, started=self.now())

    def elapsed(self) -> float:
        """Return the seconds since the sitting began."""
        return self.now() - self.started

    def set_up(self) -> Sitting:
        """Return the sitting once images and weights are read."""
        return replace(self, started=self.now()) if self.setup_is_free else self

    def seen_by(self, *, writer: bool) -> Sitting:
        """Return this sitting for one process; only the ``writer`` reports anything."""
        if writer:
            return self
        return Sitting(now=self.now, started=self.started, setup_is_free=self.setup_is_free)


class Callbacks:
    """Calls functions with each event until one raises an exception, which is kept."""

    def __init__(self, functions: tuple[Listener, ...]) -> None:
        self.functions = functions
        self.error: Exception | None = None

    def __call__(self, event: Event) -> None:
        """Call the functions in order."""
        if self.error is None:
            try:
                for function in self.functions:
                    function(event)
            except Exception as error:  # raised once the state is saved
                self.error = error

    def raise_error(self) -> None:
        """Raise the exception of a function, if there was one."""
        if self.error is not None:
            raise self.error


# The first steps include one-off work: kernels, buffers, memory.
WARM_UP = 3


class Clock:
    """The clock of a step without a profile: measures nothing and never waits for the device."""

    def start(self) -> None:
        """Begin a step."""

    def lap(self, name: str) -> None:
        """End the part ``name`` of the step."""

    def count(self, images: int) -> None:
        """End a step of so many images."""


class Stopwatch(Clock):
    """Adds up the seconds of each part of a step, waiting for the device after each."""

    def __init__(self, device: torch.device, *, now: Now = time.perf_counter) -> None:
        self.device, self.now = device, now
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = now()
        self._steps = -WARM_UP
        self._images = 0

    def start(self) -> None:
        """Start timing a step."""
        self._since = self._now()

    def lap(self, name: str) -> None:
        """Add the time since the last lap, or the start, to ``name``."""
        now = self._now()
        self._seconds[name] += now - self._since
        self._since = now

    def count(self, images: int) -> None:
        """End a step of so many images; the first few are forgotten."""
        self._steps += 1
        self._images += images
        if self._steps == 0:
            self._seconds.clear()
            self._images = 0

    def result(self) -> Profiled:
        """Return what was measured; for a short run, the warm-up."""
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


FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Raise `InputError` unless the extra is installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the extra: pip install 'mobilette[tensorboard]'"
        ) from error


@contextmanager
def tensorboard_log(folder: Path, *, wanted: bool) -> Iterator[Listener]:
    """Yield a listener that writes TensorBoard events into the run ``folder``, if ``wanted``."""
    if not wanted:
        yield _ignore
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / FOLDER)) as writer:

        def log(event: Event) -> None:
            if not isinstance(event, EpochDone):
                return
            for name, value in (
                ("loss/train", event.train_loss),
                ("loss/val", event.metrics.loss),
                ("accuracy/top1", event.metrics.top1),
                ("accuracy/top5", event.metrics.top5),
                ("accuracy/mean_average_precision", event.metrics.mean_average_precision),
                ("lr", event.lr),
            ):
                # Missing with one label per image, and for a run's initial weights.
                if value is not None and not math.isnan(value):
                    writer.add_scalar(name, value, event.step)

        yield log

"""What `train` shows while it works."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mobilette.cli.output import human_bytes, remarks
from mobilette.progress import Reporter
from mobilette.training.events import EpochDone, Event, Profiled


class TrainingProgress:
    """Progress of a training: a line per epoch and, in a ``with`` block, bars.

    Give it to `mobilette.train` as one of ``callbacks`` and, for the bars of downloads and images,
    its ``reporter`` as ``reporter``. It prints to stderr, or into the notebook; bars are shown in
    terminals and notebooks only.

    Args:
        shown: whether bars are shown at all.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self.epochs = 0.0
        self.profiled: Profiled | None = None
        console = remarks()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # An empty line is all that would be left elsewhere.
            disable=not (shown and (console.is_jupyter or sys.stderr.isatty())),
        )
        self._downloading: TaskID | None = None
        self._loading: TaskID | None = None
        self._training: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    @property
    def reporter(self) -> Reporter:
        """What `mobilette.train` and `mobilette.resume` take as ``reporter``."""
        return Reporter(reading=self.load, download=self.download, remark=self.remark)

    def remark(self, text: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(text)

    def load(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images are read."""
        if self._loading is None:
            self._loading = self._bars.add_task("reading images", total=total, rate="")
        speed = self._speed(self._loading)
        self._bars.update(self._loading, completed=done, rate=f"{speed:,.0f} images/s")
        if done == total:
            self._bars.remove_task(self._loading)
            self._loading = None

    def download(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes of weights are there."""
        if self._downloading is None:
            self._downloading = self._bars.add_task("downloading weights", total=total, rate="")
        rate = f"{human_bytes(int(self._speed(self._downloading)))}/s"
        self._bars.update(self._downloading, completed=done, total=total, rate=rate)
        if done == total:
            self._bars.remove_task(self._downloading)
            self._downloading = None

    def _speed(self, task: TaskID) -> float:
        return next(known.speed or 0.0 for known in self._bars.tasks if known.id == task)

    def __call__(self, event: Event) -> None:
        """Show a step or an epoch that is done."""
        if isinstance(event, EpochDone):
            self.epochs = event.epoch
            self.remark(_epoch_line(event))
            return
        if isinstance(event, Profiled):
            self.profiled = event
            return
        of = f"/{event.epochs}" if event.epochs else ""
        description = f"epoch {event.epoch + 1}{of}  loss {event.loss:.3f}"
        if self._training is None:
            self._training = self._bars.add_task(description, total=1.0, rate="")
        self._bars.update(
            self._training,
            description=description,
            completed=event.part,
            rate=f"{event.images_per_second:,.0f} images/s",
        )


def _epoch_line(event: EpochDone) -> str:
    metrics = event.metrics
    if metrics.mean_average_precision is None:
        top5 = "" if metrics.top5 is None else f"  top-5 {metrics.top5:7.2%}"
        reached = f"top-1 {metrics.top1:7.2%}{top5}"
    else:
        reached = f"mAP {metrics.mean_average_precision:7.2%}  top-1 {metrics.top1:7.2%}"
    trained = "as it starts" if event.step == 0 else f"train loss {event.train_loss:.3f}"
    trained += "  head alone" * event.frozen
    whole = event.epoch == int(event.epoch)
    after = f"epoch {event.epoch:>3.0f}" if whole else f"{event.epoch:g} epochs"
    best = "  best" * (event.is_best and whole)
    return f"{after}  {trained}  val loss {metrics.loss:.3f}  {reached}{best}"

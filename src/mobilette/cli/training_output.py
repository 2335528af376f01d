"""Output of a training: its progress and its result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mobilette.cli.output import console, human_bytes, print_json, remarks, table
from mobilette.progress import Reporter
from mobilette.reporting.outcome import Outcome, outcome
from mobilette.run.directory import Run
from mobilette.run.tested import Tested
from mobilette.training.events import EpochDone, Event, Profiled
from mobilette.workflows.folds_record import Folds

# Remedies for a bottleneck.
ADVICE = {
    "data": ": more --workers, or --set loader=resident if the memory is there",
    "augmentation": ": weaker or fewer augmentations",
    "forward": ": the network; a smaller --width-mult or --resolution",
    "backward": ": the network; a smaller --width-mult or --resolution",
    "optimiser": ": a larger --batch-size",
    "captured": ": the network; a smaller --width-mult or --resolution",
}


class TrainingProgress:
    """Progress of a training: a line per epoch and, in a ``with`` block, bars.

    Pass it to `mobilette.train` as one of ``callbacks`` and, for the bars of downloads and images,
    its ``reporter`` as ``reporter``. It prints to stderr or into the notebook; bars are shown only
    in terminals and notebooks.

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
            # Elsewhere they would leave an empty line.
            disable=not (shown and (console.is_jupyter or sys.stderr.isatty())),
        )
        self._tasks: dict[str, TaskID] = {}
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
        """The ``reporter`` for `mobilette.train` and `mobilette.resume`."""
        return Reporter(reading=self.load, download=self.download, remark=self.remark)

    def remark(self, text: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(text)

    def load(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images are read."""
        self._show("reading images", done, total, lambda speed: f"{speed:,.0f} images/s")

    def download(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes of weights are downloaded."""
        self._show("downloading weights", done, total, lambda speed: f"{human_bytes(int(speed))}/s")

    def _show(self, what: str, done: int, total: int, rate: Callable[[float], str]) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, rate="")
        task = self._tasks[what]
        speed = next(known.speed or 0.0 for known in self._bars.tasks if known.id == task)
        self._bars.update(task, completed=done, total=total, rate=rate(speed))
        if done == total:
            self._bars.remove_task(self._tasks.pop(what))

    def __call__(self, event: Event) -> None:
        """Show a finished step or epoch."""
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
    trained = "before training" if event.step == 0 else f"train loss {event.train_loss:.3f}"
    trained += "  head alone" * event.frozen
    whole = event.epoch == int(event.epoch)
    after = f"epoch {event.epoch:>3.0f}" if whole else f"{event.epoch:g} epochs"
    best = "  best" * (event.is_best and whole)
    return f"{after}  {trained}  val loss {metrics.loss:.3f}  {reached}{best}"


def print_result(run: Run, *, as_json: bool, trained: bool, profiled: Profiled | None) -> None:
    """Print the outcome of a finished ``run``; ``trained``: whether this process trained it."""
    result = outcome(run)
    out = remarks()
    if not trained:
        out.print(f"{run.path} is finished; nothing to resume")
    if as_json:
        values = _values(run, result)
        if profiled is not None:
            values["profile"] = asdict(profiled) | {"bottleneck": profiled.bottleneck}
        print_json(values)
        return
    if profiled is not None:
        _print_profile(profiled)
    best, last = result.best, result.last
    out.print(
        f"{run.path}: {_reached(best)}{_sure(result)} after {_epochs(best)}; "
        f"{_reached(last)} at the end, after {_epochs(last)}; "
        f"{last['seconds']:.0f} s, {last['images_per_second']:,.0f} images/s",
    )
    if result.tested is not None:
        out.print(_which_number_is_which(best, result.tested))
    for line in result.warnings():
        out.print(line)
    place = shlex.quote(str(run.path))
    out.print(f"next: mobilette export {place} --to onnx")
    out.print(f"next: mobilette report {place}")


def print_folds(folds: Folds, *, as_json: bool) -> None:
    """Print the numbers of each fold, their mean and spread."""
    if as_json:
        print_json(folds.to_json())
        return
    rows = [
        (str(number), f"{each.top1:.2%}", f"{low:.2%} to {high:.2%}", f"{each.images:,}")
        for number, each in enumerate(folds.tested, 1)
        for low, high in [each.interval]
    ]
    print(table(("fold", "top-1", "95%", "images"), rows))
    remarks().print(
        f"{folds.path}: top-1 {folds.top1:.2%}, standard deviation {folds.spread:.2%} over "
        f"{len(folds.runs)} folds; what each run answers to its fold: {folds.predictions}"
    )


def _values(run: Run, result: Outcome) -> dict[str, object]:
    best, last = result.best, result.last
    values: dict[str, object] = {
        "run": str(run.path),
        "epochs": int(last["epoch"]),
        "top1": best["top1"],
        "top5": best.get("top5"),
        "loss": best["val_loss"],
        "seconds": last["seconds"],
        "images_per_second": last["images_per_second"],
        "final": {"epoch": last["epoch"], "top1": last["top1"], "loss": last["val_loss"]},
        "warnings": result.warnings(),
        "answering": asdict(run.answering),
        "test": None if result.tested is None else result.tested.to_json(),
    }
    if "mean_average_precision" in best:
        values["mean_average_precision"] = best["mean_average_precision"]
    if result.largest is not None:
        name, share = result.largest
        values["top1_interval"] = result.interval
        values["largest_class"] = {"id": name, "share": share}
    return values


def _reached(row: dict[str, float]) -> str:
    precision = row.get("mean_average_precision")
    first = "" if precision is None else f"mean average precision {precision:.2%}, "
    return f"{first}top-1 {row['top1']:.2%}"


def _which_number_is_which(best: dict[str, float], tested: Tested) -> str:
    low, high = tested.interval
    return (
        f"val {best['top1']:.1%}: chose the weights. test {tested.top1:.1%} (95%: {low:.1%} to "
        f"{high:.1%}), {tested.images:,} images, used for nothing"
    )


def _sure(result: Outcome) -> str:
    if result.largest is None:
        return ""
    low, high = result.interval
    share = result.largest[1]
    return (
        f" ({low:.1%} to {high:.1%} with 95% confidence, {result.images:,} images; "
        f"the largest class is {share:.1%} of them)"
    )


def _epochs(row: dict[str, float]) -> str:
    epoch = row["epoch"]
    if epoch == int(epoch):
        return f"epoch {epoch:.0f}" if epoch else "no training"
    return f"{epoch:g} epochs"


def _print_profile(profiled: Profiled) -> None:
    out = console()
    total = sum(profiled.seconds.values())
    out.print(f"{profiled.steps} steps, {profiled.images_per_second:,.1f} images/s")
    for name, seconds in profiled.seconds.items():
        a_step = 1000 * seconds / max(profiled.steps, 1)
        out.print(f"  {name:<13} {a_step:9.2f} ms per step  {seconds / total:6.1%}")
    out.print(f"the bottleneck is {profiled.bottleneck}{ADVICE[profiled.bottleneck]}")

"""What `train` shows while it works, and at the end."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mobilette.cli.output import console, human_bytes, print_json, remarks
from mobilette.run.directory import Run
from mobilette.training.events import EpochDone, Event, Profiled

# What helps where the time goes.
ADVICE = {
    "data": ": more --workers, or --set loader=resident if the memory is there",
    "augmentation": ": weaker or fewer augmentations",
    "forward": ": the network; a smaller --width-mult or --resolution",
    "backward": ": the network; a smaller --width-mult or --resolution",
    "optimiser": ": a larger --batch-size",
}


class TrainingProgress:
    """Bars on stderr (weights, pictures, training) and a line an epoch."""

    def __init__(self, *, shown: bool = True) -> None:
        self.epochs = 0
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
            disable=not (shown and console.is_terminal),
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

    def remark(self, text: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(text)

    def load(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` pictures are read."""
        if self._loading is None:
            self._loading = self._bars.add_task("reading pictures", total=total, rate="")
        speed = self._speed(self._loading)
        self._bars.update(self._loading, completed=done, rate=f"{speed:,.0f} pictures/s")
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

    def show(self, event: Event) -> None:
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
            rate=f"{event.images_per_second:,.0f} pictures/s",
        )


def _epoch_line(event: EpochDone) -> str:
    metrics = event.metrics
    if metrics.mean_average_precision is None:
        reached = f"top-1 {metrics.top1:7.2%}  top-5 {metrics.top5:7.2%}"
    else:
        reached = f"mAP {metrics.mean_average_precision:7.2%}  top-1 {metrics.top1:7.2%}"
    trained = "as it starts" if event.step == 0 else f"train loss {event.train_loss:.3f}"
    return f"epoch {event.epoch:>3}  {trained}  val loss {metrics.loss:.3f}  {reached}" + (
        "  best" * event.is_best
    )


def print_result(run: Run, *, as_json: bool, trained: bool, profiled: Profiled | None) -> None:
    """Print the outcome of ``run``.

    Args:
        run: is finished.
        as_json: as one JSON value on stdout.
        trained: whether this sitting added to it.
        profiled: where the time of its steps went, if that was asked.
    """
    last, best = run.history()[-1], run.best() or {}
    average_precision = {key: best[key] for key in ("mean_average_precision",) if key in best}
    out = remarks()
    if not trained:
        out.print(f"{run.path} is finished; nothing to resume")
    if as_json:
        print_json(
            {
                "run": str(run.path),
                "epochs": int(last["epoch"]),
                "top1": best["top1"],
                "top5": best["top5"],
                "loss": best["val_loss"],
                "seconds": last["seconds"],
                "images_per_second": last["images_per_second"],
            }
            | average_precision
            | ({"profile": _profile(profiled)} if profiled is not None else {})
        )
        return
    if profiled is not None:
        _print_profile(profiled)
    reached = "".join(f"mean average precision {x:.2%}, " for x in average_precision.values())
    out.print(
        f"{run.path}: {reached}top-1 {best['top1']:.2%} after epoch {int(best['epoch'])}, "
        f"{last['seconds']:.0f} s, {last['images_per_second']:,.0f} pictures/s",
    )
    out.print(f"next: mobilette export {shlex.quote(str(run.path))} --to onnx")


def _profile(profiled: Profiled) -> dict[str, object]:
    return asdict(profiled) | {"bottleneck": profiled.bottleneck}


def _print_profile(profiled: Profiled) -> None:
    out = console()
    total = sum(profiled.seconds.values())
    out.print(f"{profiled.steps} steps, {profiled.images_per_second:,.1f} pictures/s")
    for name, seconds in profiled.seconds.items():
        a_step = 1000 * seconds / max(profiled.steps, 1)
        out.print(f"  {name:<13} {a_step:9.2f} ms a step  {seconds / total:6.1%}")
    out.print(f"the bottleneck is {profiled.bottleneck}{ADVICE[profiled.bottleneck]}")

"""What `train` says at the end."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from mobilette.cli.output import console, print_json, remarks
from mobilette.reporting.outcome import Outcome, outcome
from mobilette.run.directory import Run
from mobilette.training.events import Profiled

# What helps where the time goes.
ADVICE = {
    "data": ": more --workers, or --set loader=resident if the memory is there",
    "augmentation": ": weaker or fewer augmentations",
    "forward": ": the network; a smaller --width-mult or --resolution",
    "backward": ": the network; a smaller --width-mult or --resolution",
    "optimiser": ": a larger --batch-size",
}


def print_result(run: Run, *, as_json: bool, trained: bool, profiled: Profiled | None) -> None:
    """Print the outcome of ``run``.

    Args:
        run: is finished.
        as_json: as one JSON value on stdout.
        trained: whether this sitting added to it.
        profiled: where the time of its steps went, if that was asked.
    """
    result = outcome(run)
    out = remarks()
    if not trained:
        out.print(f"{run.path} is finished; nothing to resume")
    if as_json:
        profile = {"profile": _profile(profiled)} if profiled is not None else {}
        print_json(_values(run, result) | profile)
        return
    if profiled is not None:
        _print_profile(profiled)
    best, last = result.best, result.last
    out.print(
        f"{run.path}: {_reached(best)}{_sure(result)} after {_epochs(best)}; "
        f"{_reached(last)} at the end, after {_epochs(last)}; "
        f"{last['seconds']:.0f} s, {last['images_per_second']:,.0f} images/s",
    )
    for line in result.warnings():
        out.print(line)
    out.print(f"next: mobilette export {shlex.quote(str(run.path))} --to onnx")


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


def _profile(profiled: Profiled) -> dict[str, object]:
    return asdict(profiled) | {"bottleneck": profiled.bottleneck}


def _print_profile(profiled: Profiled) -> None:
    out = console()
    total = sum(profiled.seconds.values())
    out.print(f"{profiled.steps} steps, {profiled.images_per_second:,.1f} images/s")
    for name, seconds in profiled.seconds.items():
        a_step = 1000 * seconds / max(profiled.steps, 1)
        out.print(f"  {name:<13} {a_step:9.2f} ms a step  {seconds / total:6.1%}")
    out.print(f"the bottleneck is {profiled.bottleneck}{ADVICE[profiled.bottleneck]}")

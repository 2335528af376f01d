"""``mobilette evaluate``: how accurate a run or an artifact is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Device, Json, MaxUnusable, SplitOption, Threads, Workers


def evaluate(
    model: Annotated[Path, typer.Argument(help="A run directory or an artifact directory.")],
    data: Annotated[str, typer.Argument(help="A folder of images, or a named set.")],
    split: SplitOption = None,
    device: Device = "cpu",
    threads: Threads = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    as_json: Json = False,
) -> None:
    """Measure accuracy and confusions on labelled images."""
    from mobilette.cli.output import console, print_json, reading_bar, remarks
    from mobilette.engines.load import load
    from mobilette.progress import Reporter
    from mobilette.verification.evaluate import evaluate as measure

    remarked: list[str] = []
    with reading_bar() as report:
        metrics = measure(
            load(model, device=device, threads=threads or 0),
            data,
            split=split,
            workers=workers,
            max_unusable=max_unusable,
            reporter=Reporter(reading=report, remark=remarked.append),
        )
    for line in remarked:
        remarks().print(line)
    if as_json:
        print_json(metrics.to_json())
        return
    out = console()
    top5 = "" if metrics.top5 is None else f"top-5 {metrics.top5:.2%}  "
    out.print(
        f"top-1 {metrics.top1:.2%}  {top5}loss {metrics.loss:.4f}  ({metrics.images:,} images)"
    )
    if metrics.mean_average_precision is not None:
        out.print(f"mean average precision {metrics.mean_average_precision:.2%}")
        for name, measured in metrics.per_class.items():
            out.print(f"  {name}: {measured['average_precision']:.1%}")
    for true, guesses in metrics.confusion.items():
        wrong = {guess: count for guess, count in guesses.items() if guess != true}
        mistakes = ", ".join(
            f"{count} as {guess}" for guess, count in sorted(wrong.items(), key=lambda i: -i[1])
        )
        out.print(f"  {true}: {metrics.per_class[true]['top1']:.1%}  {mistakes}")

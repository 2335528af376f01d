"""``mobilette evaluate`` and ``verify``: a model's answers beside labels and its checkpoint's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import (
    Device,
    Force,
    IncludeTrained,
    Json,
    MaxDrop,
    MaxUnusable,
    SplitOption,
    Threads,
    Workers,
)
from mobilette.cli.shifts import check_options, measure_shifts
from mobilette.progress import Reporter


def evaluate(
    model: Annotated[Path, typer.Argument(help="A run directory or an artifact directory.")],
    data: Annotated[str, typer.Argument(help="A folder of images, or a named set.")],
    shift: Annotated[
        bool,
        typer.Option("--shift", help="Measure under twelve everyday shifts, such as blur."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --shift: the chart to write.", metavar="FILE.png"),
    ] = None,
    force: Force = False,
    split: SplitOption = None,
    include_trained: IncludeTrained = False,
    device: Device = "cpu",
    threads: Threads = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    as_json: Json = False,
) -> None:
    """Measure accuracy and confusions on labelled images."""
    from mobilette.cli.output import console, print_json, reading_bar, remarks, say_trained
    from mobilette.engines.load import load
    from mobilette.verification.evaluate import evaluate as measure

    check_options(shift=shift, out=out, force=force)
    if shift:
        measure_shifts(
            model,
            data,
            out,
            split=split,
            include_trained=include_trained,
            device=device,
            threads=threads,
            workers=workers,
            max_unusable=max_unusable,
            as_json=as_json,
        )
        return
    remarked: list[str] = []  # printed once the bar is gone
    with reading_bar() as report:
        metrics = measure(
            load(model, device=device, threads=threads or 0),
            data,
            split=split,
            include_trained=include_trained,
            workers=workers,
            max_unusable=max_unusable,
            reporter=Reporter(reading=report, remark=remarked.append),
        )
    for line in remarked:
        remarks().print(line)
    if as_json:
        print_json(metrics.to_json())
        return
    results = console()
    top5 = "" if metrics.top5 is None else f"top-5 {metrics.top5:.2%}  "
    trained = say_trained(metrics.trained_left_out, included=metrics.includes_trained)
    results.print(
        f"top-1 {metrics.top1:.2%}  {top5}loss {metrics.loss:.4f}  "
        f"({metrics.images:,} images{trained})"
    )
    if metrics.mean_average_precision is not None:
        results.print(f"mean average precision {metrics.mean_average_precision:.2%}")
        for name, measured in metrics.per_class.items():
            results.print(f"  {name}: {measured['average_precision']:.1%}")
    for true, guesses in metrics.confusion.items():
        wrong = {guess: count for guess, count in guesses.items() if guess != true}
        mistakes = ", ".join(
            f"{count} as {guess}" for guess, count in sorted(wrong.items(), key=lambda i: -i[1])
        )
        results.print(f"  {true}: {metrics.per_class[true]['top1']:.1%}  {mistakes}")


def verify(
    artifact: Annotated[Path, typer.Argument(help="The artifact directory.")],
    data: Annotated[str | None, typer.Argument(help="A folder of images, or a set.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--from", help="The run [the one the contract names].", metavar="RUN"),
    ] = None,
    split: SplitOption = None,
    include_trained: IncludeTrained = False,
    max_drop: MaxDrop = 1.0,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    as_json: Json = False,
) -> int:
    """Compare the answers of an artifact with its checkpoint's.

    Exit status 1 if it fails.
    """
    from mobilette.cli.output import console, print_json, reading_bar
    from mobilette.cli.verdict import class_lines, verdict_rows
    from mobilette.verification.verify import verify as judge

    with reading_bar() as report:
        verdict = judge(
            artifact,
            data,
            checkpoint=checkpoint,
            split=split,
            include_trained=include_trained,
            max_drop=max_drop,
            workers=workers,
            max_unusable=max_unusable,
            reporter=Reporter(reading=report),
        )
    if as_json:
        print_json(verdict.to_json())
        return 0 if verdict.passed else 1
    out = console()
    for name, value in verdict_rows(verdict):
        out.print(f"{name:<30}{value}")
    for line in class_lines(verdict):
        print(line)
    for note in verdict.notes:
        out.print(f"note: {note}")
    for failure in verdict.failures:
        out.print(f"failed: {failure}")
    out.print("verify: passed" if verdict.passed else "verify: FAILED")
    return 0 if verdict.passed else 1

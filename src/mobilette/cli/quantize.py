"""``mobilette quantize``: a run to an int8 artifact that keeps its accuracy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import (
    Force,
    Json,
    MaxDrop,
    MaxUnusable,
    Out,
    Seed,
    SplitOption,
    Workers,
)
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.workflows.quantize import Quantised


def quantize(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    data: Annotated[str, typer.Argument(help="Labelled images that judge.")],
    to: Annotated[
        str, typer.Option("--to", help="Target: onnx, openvino, litert or another.")
    ] = "onnx",
    max_drop: MaxDrop = 1.0,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            help="Images to calibrate and train with [the run's own].",
            metavar="DATA",
        ),
    ] = None,
    split: SplitOption = None,
    out: Out = None,
    seed: Seed = 0,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Write an int8 artifact that keeps the accuracy of a run.

    The cheapest way that does is taken. Status 1 if none does: the best one is written then.
    """
    from mobilette.cli.output import print_json, progress_bar, remarks
    from mobilette.workflows.quantize import quantize as climb

    said = remarks()
    with progress_bar("reading images") as progress:
        found = climb(
            run,
            data,
            to=to,
            max_drop=max_drop,
            calibrate=calibrate,
            split=split,
            out=out,
            force=force,
            workers=workers,
            max_unusable=max_unusable,
            seed=seed or 0,
            reporter=Reporter(
                reading=partial(progress, "reading images"), remark=lambda line: said.print(line)
            ),
            progress=progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    return 0 if found.kept and found.verdict.passed else 1


def _print(found: Quantised) -> None:
    from rich.table import Table

    from mobilette.cli.output import console, human_bytes

    out = console()
    table = Table("rung", box=None)
    for name in ("top-1", "drop, points", "size", "ms", "in float", "kept"):
        table.add_column(name, justify="right")
    for index, rung in enumerate(found.rungs):
        table.add_row(
            f"{rung.name}{' <-' if index == found.chosen else ''}",
            "-" if rung.top1 is None else f"{rung.top1:.2%}",
            "-" if rung.drop is None else f"{100 * rung.drop:.2f}",
            "-" if rung.size_bytes is None else human_bytes(rung.size_bytes),
            "-" if rung.latency_ms is None else f"{rung.latency_ms:.3g}",
            str(len(rung.float_layers)),
            "yes" if rung.kept else "no",
        )
    out.print(table)
    chosen, verdict = found.rungs[found.chosen], found.verdict
    for rung in found.rungs:
        if rung.reason:
            out.print(f"{rung.name}: {rung.reason}")
    if chosen.float_layers:
        layers = ", ".join(chosen.float_layers)
        out.print(f"in float: {layers}")
    if verdict.accuracy_source is not None and verdict.accuracy_artifact is not None:
        out.print(
            f"{found.artifact.path}: {verdict.accuracy_artifact:.2%} of {verdict.images:,} "
            f"images, the run {verdict.accuracy_source:.2%}; the same "
            f"answer to {verdict.top1_agreement:.2%}",
        )
    if found.latency_ms:
        listed = ", ".join(f"{name} {ms:.3g} ms" for name, ms in found.latency_ms.items())
        out.print(f"one image, one thread: {listed}")
    if found.advice:
        out.print(found.advice)
    for failure in verdict.failures:
        out.print(f"verify failed: {failure}")
    what = "kept" if found.kept else f"NOT kept; the best is rung {chosen.name}"
    out.print(f"quantize: accuracy {what}")

"""``mobilette bench``: compares artifacts and runs in accuracy, latency, memory and size."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import Force, IncludeTrained, Json, SplitOption, Workers, ranged
from mobilette.errors import InputError
from mobilette.limits import ROUNDS, THREADS
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.verification.benchmark import Benchmark

PRECISIONS = "fp32,fp16,bf16,int8"


def bench(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Artifacts, folders of several, and runs.", metavar="ARTIFACT..."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Labelled images to measure the accuracy on.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", help="First export the given runs to these targets, with commas, or all."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help=f"Precisions to export [{PRECISIONS}], or a table's."),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="Instead, measure a latency table of this machine on onnx or litert: the time of "
            "each shape of layer, from which latencies are predicted.",
        ),
    ] = None,
    split: SplitOption = None,
    include_trained: IncludeTrained = False,
    threads: Annotated[int, ranged("--threads", THREADS, "Threads of each engine.")] = 1,
    rounds: Annotated[int, ranged("--rounds", ROUNDS, "Rounds of timing, in turns.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for bench.json, .md, .svg [a folder of artifacts], or a table's file.",
        ),
    ] = None,
    workers: Workers = None,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Verify artifacts and time them in turns.

    Exit status 1 if no artifact is verified.
    """
    if table is not None:
        from mobilette.cli.latency_table import make_table

        refused = {"ARTIFACT": models, "--data": data, "--to": to, "--split": split}
        return make_table(
            table,
            precision=precision or "fp32",
            threads=threads,
            out=out,
            force=force,
            as_json=as_json,
            refused=[name for name, value in refused.items() if value],
        )
    if not models:
        raise InputError("bench: give artifacts, runs or folders of them, or --table ENGINE")
    from mobilette.artifact.directory import find_artifacts
    from mobilette.cli.output import remarks
    from mobilette.folders import claimed, make_directory
    from mobilette.reporting.benchmark import write_benchmark
    from mobilette.verification.bench import bench as measure

    if to is not None:
        made = [
            _export(run, to, precision or PRECISIONS, data, out=out, force=force) for run in models
        ]
        if len(made) == 1:
            out = made[0]  # where predict looks for it
        models = [path for pair in zip(models, made, strict=True) for path in pair]
    if out is None and len(models) == 1 and find_artifacts(models[0]):
        out = models[0]
    with nullcontext() if out is None else claimed(out):
        if out is not None:
            make_directory(out)
        found = measure(
            models,
            data,
            split=split,
            include_trained=include_trained,
            threads=threads,
            rounds=rounds,
            workers=workers,
            reporter=Reporter(remark=lambda line: remarks().print(line)),
        )
        written = write_benchmark(found, out) if out is not None else []
    _print(found, as_json=as_json)
    if written:
        remarks().print(f"written: {', '.join(map(str, written))}")
    only_runs = all(row.target is None for row in found.rows)
    return 0 if only_runs or found.fastest is not None or found.level else 1


def _print(found: Benchmark, *, as_json: bool) -> None:
    from mobilette.cli.output import print_json, remarks, say, table
    from mobilette.reporting import benchmark as report

    if as_json:
        print_json(found.to_json())
    else:
        print(table(report.COLUMNS, report.table_rows(found), left=range(4), gap=2))
        say(report.conclusion(found))
    for line in (*report.remarks_on(found), report.conditions(found)):
        remarks().print(line)


def _export(
    path: Path, to: str, precision: str, data: str | None, *, out: Path | None, force: bool
) -> Path:
    """Export a run to targets, print what was refused, and return the artifacts' folder."""
    from mobilette.cli.output import reading_bar, remarks
    from mobilette.exporters.export_missing import Refused, export_missing
    from mobilette.run.directory import open_run

    run, said = open_run(path), remarks()
    folder = (out or Path("exports")) / run.path.resolve().name
    with reading_bar() as report:
        reporter = Reporter(reading=report, remark=lambda line: said.print(line))
        for result in export_missing(
            run, to, precision, data=data, out=folder, force=force, reporter=reporter
        ):
            if isinstance(result, Refused):
                name = f"{result.target} {result.precision}"
                said.print(f"{name}: not written: {result.reason}")
            else:
                said.print(f"{result.path}: ready")
    return folder

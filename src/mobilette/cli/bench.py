"""``mobilette bench``: artifacts and runs side by side, accuracy, latency, memory and size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Json, SplitOption, Workers


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(help="Artifacts, folders of several, and runs.", metavar="ARTIFACT..."),
    ],
    data: Annotated[
        str | None, typer.Option("--data", help="Labelled pictures, for the accuracy.")
    ] = None,
    split: SplitOption = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each engine.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="In which all take turns.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for bench.json, .md, .svg [a folder of artifacts]."),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> int:
    """Verify and time artifacts in turns; status 1 if none of them is verified."""
    from rich import box
    from rich.table import Table

    from mobilette.artifact.directory import find_artifacts
    from mobilette.cli.output import console, print_json, remarks
    from mobilette.files import make_directory
    from mobilette.reporting.benchmark import (
        COLUMNS,
        conclusion,
        conditions,
        remarks_on,
        table_rows,
        write_benchmark,
    )
    from mobilette.verification.benchmark import bench as measure

    if out is None and len(models) == 1 and find_artifacts(models[0]):
        out = models[0]
    if out is not None:
        make_directory(out)
    found = measure(
        models,
        data,
        split=split,
        threads=threads,
        rounds=rounds,
        workers=workers,
        report=lambda line: remarks().print(line, markup=False),
    )
    written = write_benchmark(found, out) if out is not None else []
    if as_json:
        print_json(found.to_json())
    else:
        table = Table(box=box.SIMPLE_HEAD)
        for number, column in enumerate(COLUMNS):
            table.add_column(column, justify="left" if number < 4 else "right", overflow="fold")
        for cells in table_rows(found):
            table.add_row(*cells)
        console().print(table)
        console().print(conclusion(found), markup=False, soft_wrap=True)
    for line in (*remarks_on(found), conditions(found)):
        remarks().print(line, markup=False)
    if written:
        remarks().print(f"written: {', '.join(map(str, written))}", markup=False)
    only_runs = all(row.target is None for row in found.rows)
    return 0 if only_runs or found.fastest is not None else 1

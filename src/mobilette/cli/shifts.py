"""``mobilette evaluate --shift``: accuracy under everyday shifts."""

from __future__ import annotations

from pathlib import Path

from mobilette.errors import InputError
from mobilette.progress import Reporter


def check_options(*, shift: bool, out: Path | None, force: bool) -> None:
    """Raise `InputError` unless the options of the chart fit."""
    if shift and out is not None:
        from mobilette.reporting.shifts import check_chart

        check_chart(out, force=force)
    elif out is not None:
        raise InputError(f"--out {out}: the chart of --shift; give --shift too")
    elif force:
        raise InputError("--force replaces the chart of --shift; give --shift and --out too")


def measure_shifts(
    model: Path,
    data: str,
    out: Path | None,
    *,
    split: str | None,
    include_trained: bool,
    device: str,
    threads: int | None,
    workers: int | None,
    max_unusable: float,
    as_json: bool,
) -> None:
    """Measure, print and draw, and keep the numbers in the folder of the run or artifact."""
    from mobilette.cli.output import print_json, reading_bar, remarks, say, say_trained, table
    from mobilette.engines.load import load
    from mobilette.reporting import shifts as report
    from mobilette.verification.shifts import evaluate_shifts, keep

    remarked: list[str] = []  # printed once the bar is gone
    with reading_bar() as reading:
        found = evaluate_shifts(
            load(model, device=device, threads=threads or 0),
            data,
            split=split,
            include_trained=include_trained,
            workers=workers,
            max_unusable=max_unusable,
            reporter=Reporter(reading=reading, remark=remarked.append),
        )
    for line in remarked:
        remarks().print(line)
    if as_json:
        print_json(found.to_json())
    else:
        trained = say_trained(found.trained_left_out, included=found.includes_trained)
        say(report.headline(found) + trained)
        print(table(report.COLUMNS, report.table_rows(found), left=range(4), gap=2))
        say(report.explanation(found))
    written = [] if out is None else [report.write_chart(found, out)]
    try:
        written.append(keep(found, model))
    except InputError as error:  # a folder that may only be read
        remarks().print(f"not kept beside the model: {error}")
    if written:
        remarks().print(f"written: {', '.join(map(str, written))}")

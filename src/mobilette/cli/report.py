"""``mobilette report``: everything known of a model on one page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import (
    Device,
    Force,
    IncludeTrained,
    Json,
    MaxUnusable,
    SplitOption,
    Threads,
    Workers,
)
from mobilette.errors import InputError, shown
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.workflows.report_values import Report

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")

Licence = Annotated[
    str | None,
    typer.Option("--license", help="The license to state in the card, such as apache-2.0."),
]


def report(
    subject: Annotated[
        str, typer.Argument(help="A run, an artifact or a fit.", metavar="RUN|ARTIFACT|FIT")
    ],
    data: Annotated[
        str | None, typer.Argument(help="Images to measure on [those that the run held out].")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The file to write [report.html in the folder].", metavar="FILE"
        ),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write a model card, in Markdown, instead of a page.")
    ] = False,
    licence: Licence = None,
    artifacts: Annotated[
        list[Path] | None,
        typer.Option("--artifacts", help="Artifacts, or a folder of them [those in exports/]."),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", help="The folder of an audit [that in audits/].", metavar="FOLDER"),
    ] = None,
    shifts: Annotated[
        bool, typer.Option("--shifts", help="Also measure under everyday shifts, such as blur.")
    ] = False,
    judge: Annotated[
        bool, typer.Option("--verify", help="Also execute artifacts without a recorded verdict.")
    ] = False,
    split: SplitOption = None,
    include_trained: IncludeTrained = False,
    device: Device = "cpu",
    threads: Threads = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Put all that is known of a model on one page.

    The page is one file: answers, mistakes, calibration, cost, artifacts and how to make it again.
    """
    from mobilette.cli.output import print_json, reading_bar, remarks
    from mobilette.reporting.report import CARD, NAME, check_out
    from mobilette.reporting.report import report as make

    check_licence(licence)
    if licence is not None and not card:
        raise InputError("--license is for the model card; give --card too")
    place = out or _default(Path(subject), "README.md" if card else NAME)
    if card and place.suffix.lower() != CARD:
        raise InputError(
            f"--card writes Markdown; give --out a name that ends in {CARD}, not {place}"
        )
    # Its own earlier page may be replaced, what somebody has named may not.
    replaces = force or (out is None and not card)
    check_out(place, force=replaces)
    remarked: list[str] = []
    with reading_bar() as reading:
        found = make(
            subject,
            data,
            out=place,
            artifacts=artifacts or (),
            audit=audit,
            shifts=shifts,
            verify=judge,
            licence=licence,
            split=split,
            include_trained=include_trained,
            device=device,
            threads=threads or 0,
            workers=workers,
            max_unusable=max_unusable,
            force=replaces,
            reporter=Reporter(reading=reading, remark=remarked.append),
        )
    for line in remarked:
        remarks().print(line)
    if as_json:
        print_json({"report": str(place), **found.to_json()})
    else:
        _print(found)
    remarks().print(f"written: {place}")


def _print(found: Report) -> None:
    from mobilette.cli.output import remarks, say

    for line in (*found.summary, *found.warnings):
        say(line)
    for line in found.notes:
        remarks().print(line)


def _default(subject: Path, name: str) -> Path:
    """Return the file in the folder of the subject, or ``name`` here beside what is no folder."""
    return subject / name if subject.is_dir() else Path(name)


def check_licence(licence: str | None) -> None:
    """Raise `InputError` unless ``licence`` looks like one of the hub's identifiers."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise InputError(f"--license {shown(licence)} is no identifier, such as apache-2.0 or mit")

"""``mobilette fit``: images and a budget in, a verified network out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mobilette.cli.options import (
    Device,
    Force,
    Json,
    MaxDrop,
    MaxUnusable,
    Out,
    Seed,
    Threads,
    Workers,
)
from mobilette.errors import InputError

if TYPE_CHECKING:
    from mobilette.workflows.fit_record import Fitted

Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", help="Terms, such as 'size<=500KB, latency<=2ms@onnx' or 'top1>=90%'."
    ),
]
SceneOption = Annotated[
    Literal["server", "phone", "browser", "mcu"] | None,
    typer.Option("--scene", help="A named budget; terms of --budget replace its own."),
]
FitTime = Annotated[str, typer.Option("--time", help="Time for everything, such as 10m or 2h.")]
To = Annotated[
    str | None, typer.Option("--to", help="Target [of the latency or the scene, or onnx].")
]
PrecisionOption = Annotated[
    Literal["fp32", "int8"] | None,
    typer.Option(
        "--precision", help="Precision: fp32 or int8 [int8 where size or ram are limited]."
    ),
]
Starts = Annotated[
    list[str] | None,
    typer.Option("--starts", help="Runs or published weights to start from.", metavar="RUN"),
]
Models = Annotated[
    str | None, typer.Option("--models", help="Networks to try, such as 'mobilenet*'.")
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher", help="A run or published weights to distil from [the best one found]."
    ),
]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", help="Part of the images to hold out for a test, such as 20%."),
]
Groups = Annotated[
    str | None,
    typer.Option(
        "--groups", help="Keep groups of images on one side.", metavar="COLUMN|REGEX|folder"
    ),
]
Storage = Annotated[
    str | None,
    typer.Option("--storage", help="URL of the race's database [SQLite in the folder]."),
]
Resume = Annotated[
    Path | None, typer.Option("--resume", help="Continue a stopped fit, or help a running one.")
]


# What a fit that goes on accepts; everything else is recorded.
WITH_RESUME = {"resume", "threads", "as_json"}


def fit(
    context: typer.Context,
    data: Annotated[str | None, typer.Argument(help="Images, or a named set.")] = None,
    budget: Budget = None,
    scene: SceneOption = None,
    time: FitTime = "20m",
    to: To = None,
    precision: PrecisionOption = None,
    starts: Starts = None,
    teacher: Teacher = None,
    models: Models = None,
    max_drop: MaxDrop = 1.0,
    holdout: Holdout = None,
    groups: Groups = None,
    seed: Seed = None,
    storage: Storage = None,
    out: Out = None,
    resume: Resume = None,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Find, train and verify the best network for a budget.

    Exit status 1 if a term of the budget is missed; the best effort is kept.
    """
    if (data is None) == (resume is None):
        raise InputError("'fit' needs DATA and a budget, or --resume FOLDER alone")
    given = {name for name in context.params if _is_given(context, name)}
    if resume is not None and given - WITH_RESUME:
        names = ", ".join(sorted(given - WITH_RESUME))
        raise InputError(f"--resume goes on with a fit as it was begun; it takes no {names}")
    from mobilette.training.process import keep_freed_memory, let_threads_sleep, set_threads

    let_threads_sleep()
    keep_freed_memory()
    set_threads(threads)
    from mobilette.cli.fit_output import FitProgress
    from mobilette.cli.output import remarks
    from mobilette.workflows.fit import fit as find
    from mobilette.workflows.fit import resume_fit

    try:
        with FitProgress() as shown:
            if resume is not None:
                found = resume_fit(
                    resume, callbacks=[shown.step], on_line=shown.line, reporter=shown.reporter
                )
            else:
                found = find(
                    str(data),
                    budget=budget,
                    scene=scene,
                    time=time,
                    to=to,
                    precision=precision,
                    starts=starts or (),
                    teacher=teacher,
                    models=models,
                    max_drop=max_drop,
                    holdout=holdout,
                    groups=groups,
                    seed=seed or 0,
                    storage=storage,
                    out=out,
                    force=force,
                    device=device,
                    workers=workers,
                    max_unusable=max_unusable,
                    callbacks=[shown.step],
                    on_line=shown.line,
                    reporter=shown.reporter,
                )
    except KeyboardInterrupt:
        place = f"mobilette fit --resume {shlex.quote(shown.folder)}" if shown.folder else ""
        remarks().print(f"mobilette: stopped; what was verified is kept; to go on: {place}")
        return 130
    _print(found, as_json=as_json)
    return 0 if found.passed else 1


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _print(found: Fitted, *, as_json: bool) -> None:
    from mobilette.cli.output import print_json, remarks, say, table
    from mobilette.counting.amounts import in_unit
    from mobilette.reporting.fit import write_image

    written = [write_image(found), *_reports(found)]
    if as_json:
        print_json(found.to_json())
    else:
        rows = [
            (
                "PASS" if term.passed else "FAIL",
                term.text,
                in_unit(term.quantity, term.measured),
            )
            for term in found.terms
        ]
        answer = f"{found.measure} {found.top1:.2%} on {found.images:,} images"
        rows.append(("PASS" if found.verified else "FAIL", "answers as trained", answer))
        print(table(("", "term", "measured"), rows, left=(0, 1, 2)))
        for term in found.terms:
            if term.remark:
                say(f"{term.text}: {term.remark}")
        say(found.why)
    if found.artifact is not None:
        files = ", ".join(map(str, (found.artifact.path, *written)))
        remarks().print(f"written: {files}; {found.seconds:.0f} s")


def _reports(found: Fitted) -> list[Path]:
    """Write the report into the folder of a fit; what keeps it from that is said, not raised."""
    from mobilette.cli.output import remarks
    from mobilette.reporting.report import NAME
    from mobilette.reporting.report import report as make

    if found.artifact is None:
        return []
    try:
        make(found, out=found.path / NAME, force=True)
    except InputError as error:
        remarks().print(f"no report: {error}")
        return []
    return [found.path / NAME]

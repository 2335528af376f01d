"""``mobilette audit``: what is wrong with a set of images."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import Device, Force, Json, Out, ResolutionOption, Workers
from mobilette.cli.train import FromOption, ModelName, PreprocessOption, WidthMult
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.workflows.audit import Audit

_NAMED = 5  # findings of a kind on the terminal

RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Look at the images with this run's network.", metavar="RUN"),
]


def audit(
    data: Annotated[str, typer.Argument(help="A folder of images, a list or a named set.")],
    run: RunOption = None,
    start: FromOption = "auto",
    model: ModelName = None,
    width_mult: WidthMult = None,
    resolution: ResolutionOption = None,
    preprocess: PreprocessOption = None,
    out: Out = None,
    device: Device = "auto",
    workers: Workers = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find duplicates, wrong labels and odd images in a set.

    Writes audit.csv, which train --without takes, and audit.html.
    """
    from mobilette.cli.output import progress_bar, remarks
    from mobilette.folders import check_new, claimed_free
    from mobilette.reporting.audit import JSON, write_audit
    from mobilette.workflows.audit import audit as examine

    said = remarks()
    with ExitStack() as claim:
        if out is not None:
            check_new(out, holds=JSON, force=force)
        with progress_bar("reading images") as show:
            remarked: list[str] = []
            found = examine(
                data,
                run=run,
                start=start,
                model=model,
                width_mult=width_mult,
                resolution=resolution,
                preprocess=preprocess,
                device=device,
                workers=workers,
                reporter=Reporter(
                    reading=partial(show, "reading images"),
                    download=partial(show, "downloading weights"),
                    remark=remarked.append,
                ),
            )
        for line in remarked:
            said.print(line)
        # Never over an audit that somebody has filled in.
        free = claimed_free(Path("audits") / Path(found.images.name).resolve().name)
        folder = out or claim.enter_context(free)
        write_audit(found, folder, force=force)
    _print(found, as_json=as_json)
    said.print(f"written: {folder / 'audit.csv'}, {folder / 'audit.html'}")


def _print(found: Audit, *, as_json: bool) -> None:
    from mobilette.cli.output import print_json, say, table
    from mobilette.data.findings import KINDS

    if as_json:
        print_json(found.to_json())
        return
    for line in found.summary():
        say(line)
    rows = []
    for what in KINDS:
        some = found.of_kind(what)
        for finding in some[:_NAMED]:
            rather = finding.suggestion and f"rather {finding.suggestion}?"
            place = (finding.path, finding.label, finding.other or rather or finding.detail)
            rows.append((what, f"{finding.sure:.2f}", *place))
        if len(some) > _NAMED:
            rows.append((f"  {len(some) - _NAMED:,} more", "", "", "", ""))
    if rows:
        print(table(("what", "sure", "image", "class", ""), rows, left=(0, 2, 3, 4), gap=2))
    confused = () if found.labels is None else found.labels.confusions[:_NAMED]
    for one in confused:
        say(f"{one.images:,} of {one.label} ({one.share:.1%}) are taken for {one.taken_for}")

"""``mobilette weights``: what others have published."""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from mobilette.cli.options import Json
from mobilette.cli.weights_import import import_weights
from mobilette.errors import InputError, nearest, shown

if TYPE_CHECKING:
    from mobilette.formats.published import PublishedWeights

app = typer.Typer(rich_markup_mode=None)
app.command("import")(import_weights)

NOTES = (
    "width: multiplier; top-1: as claimed, on ImageNet at that many pixels; size: approximate",
    "sha-256: digits known beforehand, of 64; none: what the server states, if it does, is checked",
    "licence: as the publisher states it; * of the code, none is stated for the weights",
)


@app.callback()
def weights() -> None:
    """Weights that others have published."""


@app.command("list")
def list_weights(
    pattern: Annotated[
        str, typer.Argument(help="Part of a name or of a network's, or a pattern with *.")
    ] = "*",
    as_json: Json = False,
) -> None:
    """List the weights that can be downloaded.

    The best of each network are the first.
    """
    from mobilette.formats.published import list_published

    found = [w for w in list_published() if _matches(w.name, pattern) or _matches(w.model, pattern)]
    if not found:
        names = {name for w in list_published() for name in (w.name, w.model)}
        raise InputError(
            f"no published weights match {shown(pattern)}{nearest(pattern, sorted(names))}"
        )
    if not as_json:
        _print_table(found)
        return
    from mobilette.cli.output import print_json

    rows = []
    for entry in found:
        path = _place(entry)
        cached = path is not None and path.is_file()
        rows.append(asdict(entry) | {"path": str(path) if path else None, "cached": cached})
    print_json(rows)


def _place(weights: PublishedWeights) -> Path | None:
    """Return where the file of ``weights`` is kept; ``None`` without a home directory."""
    from mobilette.formats.download import cached_path

    try:
        return cached_path(weights)
    except InputError:
        return None


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else pattern in name


def _print_table(found: list[PublishedWeights]) -> None:
    from rich.table import Table

    from mobilette.cli.output import console, human_bytes

    table = Table("name", "network", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("width", "pixels", "top-1", "size", "sha-256"):
        table.add_column(heading, justify="right")
    for heading in ("from", "licence", "cached"):
        table.add_column(heading)
    for entry in found:
        licence, remark, _ = entry.licence.partition(" (")
        table.add_row(
            entry.name,
            entry.model,
            f"{entry.width_mult:g}",
            str(entry.resolution),
            "-" if entry.top1 is None else f"{100 * entry.top1:.1f} %",
            human_bytes(entry.size_bytes),
            str(len(entry.sha256) or "none"),
            urlsplit(entry.url).hostname,
            licence + "*" * bool(remark),
            "yes" if (place := _place(entry)) is not None and place.is_file() else "-",
        )
    out = console()
    out.print(table)
    place = _place(found[0])
    where = f"in {place.parent}" if place else "nowhere, for want of a home directory"
    for note in (*NOTES, f"cached: {where}"):
        out.print(note)

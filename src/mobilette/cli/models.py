"""``mobilette models``: what networks there are."""

from __future__ import annotations

from typing import Annotated

import typer

from mobilette.arch.catalogue import family_of, get_arch, list_models
from mobilette.cli.options import Json
from mobilette.counting.cost import cost
from mobilette.errors import InputError, nearest


def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern with *.")] = "*",
    as_json: Json = False,
) -> None:
    """List the networks, at width 1.0, 224 pixels and 1,000 classes."""
    names = list_models(pattern)
    if not names:
        raise InputError(f"no network matches {pattern!r}{nearest(pattern, list_models())}")
    rows = []
    for name in names:
        arch = get_arch(name)
        counted = cost(arch)
        rows.append(
            {
                "name": name,
                "family": family_of(name),
                "params": counted.params,
                "madds": counted.madds,
                "resolution": arch.resolution,
            }
        )
    if as_json:
        from mobilette.cli.output import print_json

        print_json(rows)
        return
    from rich.table import Table

    from mobilette.cli.output import console

    table = Table("name", "family", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("parameters", "mult-adds", "resolution"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = (f"{row[key]:,}" for key in ("params", "madds", "resolution"))
        table.add_row(str(row["name"]), str(row["family"]), *numbers)
    console().print(table)

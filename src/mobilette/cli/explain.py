"""``mobilette explain``: heat maps, and whether they are to be believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import Device, Force, Json, Seed, Threads
from mobilette.cli.predict import asked_for, chosen_model

if TYPE_CHECKING:
    from mobilette.engines.answers import Failure
    from mobilette.verification.explain import Explanation


def explain(
    model: Annotated[str, typer.Argument(help="A run, or an artifact.")],
    images: Annotated[list[str], typer.Argument(help="Images, as for predict.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The picture of the heat maps to write.", metavar="FILE.png"),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Class to explain [the best guess].", metavar="CLASS"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="How: grad-cam or occlusion [an artifact: occlusion].", metavar="NAME"
        ),
    ] = None,
    seed: Seed = None,
    force: Force = False,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Show which parts of images speak for an answer.

    Each heat map is checked: hiding its warmest fifth has to change the answer more than hiding as
    much elsewhere. Exit status 2 if no image could be read.
    """
    from mobilette.cli.output import print_json, progress_bar, remarks, say
    from mobilette.engines.answers import Failure
    from mobilette.engines.load import load
    from mobilette.errors import InputError, one_of
    from mobilette.reporting.heat_grid import MOST, check_grid, write_grid
    from mobilette.verification.explain import METHODS, explain_each

    if out is not None:
        check_grid(out, force=force)
    elif force:
        raise InputError("--force replaces the picture of --out; give --out too")
    if method is not None:
        one_of(method, METHODS, "--method")
    predictor = load(chosen_model(model), device=device, threads=threads or 0)
    asked = asked_for(images, recursive=True)
    each = explain_each(predictor, asked, label=label, method=method, seed=seed or 0)
    found: list[Explanation | Failure] = []
    with progress_bar("explaining images") as progress:
        for number, one in enumerate(each, start=1):
            found.append(one)
            progress("explaining images", number, len(asked))
    explained = [one for one in found if not isinstance(one, Failure)]
    for one in found:
        if isinstance(one, Failure):
            remarks().print(f"{one.path}: {one.error}")
        elif not as_json:
            say(f"{one.path}: {one.label} {one.probability:.1%}; {one.check.verdict}")
    believed = sum(one.check.believed for one in explained)
    if out is not None and explained:
        write_grid(explained, out)
    if as_json:
        failures = [one.to_json() for one in found if isinstance(one, Failure)]
        images_json = [one.to_json() for one in explained]
        print_json({"images": images_json, "believed": believed, "failures": failures})
    elif len(explained) > 1:
        say(f"{believed:,} of {len(explained):,} maps are to be believed")
    if out is not None and explained:
        more = f", the first {MOST}" if len(explained) > MOST else ""
        remarks().print(f"written: {out}{more}")
    return 0 if explained else 2

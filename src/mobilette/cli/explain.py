"""``mobilette explain``: heat maps, and whether they are to be believed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import Device, Force, Json, Seed, Threads
from mobilette.cli.predict import asked_for, chosen_model, report_animated

if TYPE_CHECKING:
    from mobilette.verification.explain import Explanation


def explain(
    model: Annotated[str, typer.Argument(help="A run, or an artifact.")],
    images: Annotated[list[str], typer.Argument(help="Images, as for predict.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Image of the heat maps to write.", metavar="FILE.png"),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Class to explain [the best guess].", metavar="CLASS"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="Method: grad-cam or occlusion [artifacts: occlusion].", metavar="NAME"
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
    drawn: list[Explanation] = []  # the only ones whose pixels are kept
    records: list[dict[str, object]] = []
    failures: list[dict[str, object]] = []
    explained = believed = 0
    # A bar would take the lines that are printed meanwhile to stderr.
    with progress_bar("explaining images") if as_json else nullcontext() as progress:
        for number, one in enumerate(each, start=1):
            if isinstance(one, Failure):
                remarks().print(f"{one.path}: {one.error}")
                failures.append(one.to_json())
            else:
                explained, believed = explained + 1, believed + one.check.believed
                drawn += [one] if out is not None and len(drawn) < MOST else []
                if as_json:
                    records.append(one.to_json())
                else:
                    say(f"{one.path}: {one.label} {one.probability:.1%}; {one.check.verdict}")
            if progress is not None:
                progress("explaining images", number, len(asked))
    report_animated(asked)
    if out is not None and drawn:
        write_grid(drawn, out)
    if as_json:
        print_json({"images": records, "believed": believed, "failures": failures})
    elif explained > 1:
        say(f"{believed:,} of {explained:,} maps are to be believed")
    if out is not None and drawn:
        more = f", the first {MOST}" if explained > MOST else ""
        remarks().print(f"written: {out}{more}")
    return 0 if explained else 2

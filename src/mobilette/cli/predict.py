"""``mobilette predict``: what is on these pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Device, Json, Threads


def predict(
    model: Annotated[Path, typer.Argument(help="A run directory or an artifact directory.")],
    pictures: Annotated[list[Path], typer.Argument(help="Files, or folders of files.")],
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Classify pictures; with --json one object a line. Status 2 if none could be read."""
    from mobilette.cli.output import console, print_json, remarks
    from mobilette.data.sources import list_pictures
    from mobilette.engines.load import load
    from mobilette.engines.predictor import Failure

    predictor = load(model, device=device, threads=threads or 0)
    answered = False
    for answer in predictor.predict_each(list_pictures(pictures)):
        if as_json:
            print_json(answer.to_json())
        elif isinstance(answer, Failure):
            remarks().print(f"{answer.path}: {answer.error}", markup=False)
        else:
            best = ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in answer.top[:3])
            console().print(f"{answer.path}: {best}", markup=False, soft_wrap=True)
        answered |= not isinstance(answer, Failure)
    return 0 if answered else 2

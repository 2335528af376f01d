"""``mobilette predict``: what is on these images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Device, Json, Threads, ranged
from mobilette.limits import WORKERS

# Skipped files that are named; more are counted.
_NAMED = 5

DecodingThreads = Annotated[
    int | None,
    ranged("--workers", WORKERS, "Threads that decode images [one a core]."),
]


def predict(
    model: Annotated[
        str, typer.Argument(help="A run, an artifact, or a folder of several artifacts.")
    ],
    images: Annotated[list[str], typer.Argument(help="Files, or folders of files.")],
    device: Device = "cpu",
    threads: Threads = None,
    workers: DecodingThreads = None,
    as_json: Json = False,
) -> int:
    """Classify images.

    With --json one object a line. Status 2 if none could be read.
    """
    from mobilette.artifact.directory import find_artifacts, is_artifact
    from mobilette.cli.output import print_json, remarks, say
    from mobilette.data.names import is_address, refuse_address
    from mobilette.data.sources import list_images
    from mobilette.engines.load import load
    from mobilette.engines.predictor import Failure
    from mobilette.run.directory import is_run

    refuse_address(model)
    place = Path(model)
    if not is_artifact(place) and not is_run(place) and find_artifacts(place):
        from mobilette.verification.benchmark import choose_artifact

        place, why = choose_artifact(place)
        remarks().print(why)
    predictor = load(place, device=device, threads=threads or 0)
    answered = False
    given = [text if is_address(text) else Path(text) for text in images]
    paths = list_images(given, on_skipped=_say_skipped)
    for answer in predictor.predict_each(paths, workers=workers):
        if as_json:
            print_json(answer.to_json())
        elif isinstance(answer, Failure):
            remarks().print(f"{answer.path}: {answer.error}")
        else:
            best = ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in answer.top[:3])
            say(f"{answer.path}: {best}")
        answered |= not isinstance(answer, Failure)
    return 0 if answered else 2


def _say_skipped(folder: Path, files: list[Path]) -> None:
    """Say on stderr, with ``--json`` too, which files of a folder were not taken for images."""
    from mobilette.cli.output import remarks

    if not files:
        remarks().print(f"{folder}: no images in this folder")
        return
    names = ", ".join(str(file.relative_to(folder)) for file in files[:_NAMED])
    more = f" and {len(files) - _NAMED:,} more" if len(files) > _NAMED else ""
    noun = "file is no image" if len(files) == 1 else "files are no images"
    remarks().print(f"{folder}: {len(files):,} {noun}: {names}{more}")

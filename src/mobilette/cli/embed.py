"""``mobilette embed``: the features of images, in a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilette.cli.options import Device, Force, Json, Threads
from mobilette.cli.predict import DecodingThreads, say_skipped
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.engines.predictor import Failure


def embed(
    model: Annotated[str, typer.Argument(help="A run, or an artifact exported with --features.")],
    images: Annotated[list[str], typer.Argument(help="Files, or folders of files.")],
    out: Annotated[Path, typer.Option("--out", help="The file: .npz, .csv or .parquet.")],
    device: Device = "cpu",
    threads: Threads = None,
    workers: DecodingThreads = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the features of images to a file.

    Features are what the classifier reads. Images that cannot be read are left out.
    Exit status 2 if none can.
    """
    from mobilette.cli.output import console, human_bytes, print_json, progress_bar, remarks
    from mobilette.data.names import is_address
    from mobilette.data.sources import list_images
    from mobilette.engines.feature_files import check_feature_file, write_features
    from mobilette.engines.load import load

    check_feature_file(out, force=force)
    predictor = load(model, device=device, threads=threads or 0)
    predictor.check_features()
    given = [text if is_address(text) else Path(text) for text in images]
    paths = list_images(given, on_skipped=say_skipped)

    failures: list[Failure] = []  # printed once the bar is gone
    with progress_bar("embedding images") as progress:
        written = write_features(
            predictor,
            paths,
            out,
            force=force,
            workers=workers,
            on_failure=failures.append,
            reporter=Reporter(reading=partial(progress, "embedding images")),
        )
    for failure in failures:
        remarks().print(f"{failure.path}: {failure.error}")
    size = out.stat().st_size
    if as_json:
        counts = {"images": written.images, "features": written.features}
        print_json({"path": str(out), **counts, "unusable": written.unusable, "size_bytes": size})
        return
    console().print(
        f"{out}: {written.images:,} images, {written.features:,} features each, {human_bytes(size)}"
    )

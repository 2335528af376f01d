"""The images that int8 is calibrated with: the run's own, or given ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mobilette.data.dataset import load_split
from mobilette.data.digests import NEW
from mobilette.data.held_out import choose_split, members
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from mobilette.exporters.target import Calibration
from mobilette.model.directory import is_imported
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run, recorded_data
from mobilette.run.trained import trained_on

IMAGES = 200
FEWEST = 16


def calibration_images(
    subject: Run | Model,
    data: str | Path | None = None,
    *,
    count: int = IMAGES,
    option: str = "--data",
    reading: Reading | None = None,
    reporter: Reporter = SILENT,
) -> Calibration:
    """Return up to ``count`` prepared images, the same for every target.

    By default they are the run's training images, without its validation images. Of ``data``, they
    are the training split or, without splits, all images; ``option`` names it in errors.

    Raises:
        InputError: there are too few images, or the run has none that can be read.
    """
    path = subject.path if isinstance(subject, Run) else None
    if data is None and path is None:
        raise InputError(
            "the model was not trained in a run, so there are no images to calibrate int8 with; "
            f"give some with {option}"
        )
    if data is None and path is not None and is_imported(path):
        raise InputError(
            f"{path}: an imported run has no images to calibrate int8 with; give some with {option}"
        )
    source = str(data) if data is not None or path is None else recorded_data(path)
    try:
        found = find_images(source)
    except InputError as error:
        if data is not None:
            raise
        raise InputError(
            f"the images that {path} was trained on cannot be read to calibrate int8 "
            f"({error}); give others with {option}"
        ) from error
    flat_and_given = data is not None and "all" in found.splits
    trained = trained_on(subject) if data is None else NEW
    images = members(choose_split(found, "all" if flat_and_given else "train", trained=trained))
    count = min(len(images), count)
    chosen = [images[index * len(images) // count] for index in range(count)]
    if len(chosen) < FEWEST:
        raise InputError(
            f"{source}: {len(chosen)} images are too few to calibrate int8 with; at least "
            f"{FEWEST} are needed, give others with {option}"
        )
    split, unusable = load_split(
        chosen,
        num_classes=len(found.classes),
        resolution=subject.arch.resolution,
        preprocess=subject.preprocess,
        reading=reading or Reading(),
        reporter=reporter,
    )
    if len(chosen) - len(unusable) < FEWEST:
        raise InputError(f"{source}: {len(unusable)} of {len(chosen)} images cannot be decoded")
    return Calibration(pixels=np.ascontiguousarray(split.pixels[:]), source=source)


def check_calibration(calibration: Calibration, model: Model) -> None:
    """Raise `InputError` unless the images are enough and prepared for the network."""
    shape, pixels = model.arch.shape, calibration.pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape:
        raise InputError(
            f"calibration images are {pixels.dtype} {pixels.shape}; uint8 (N, "
            f"{', '.join(map(str, shape))}) is expected"
        )
    if len(pixels) < FEWEST:
        raise InputError(
            f"{len(pixels)} images are too few to calibrate int8 with; at least {FEWEST} are needed"
        )

"""`evaluate`: the accuracy of a model on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact
from mobilette.data.dataset import load_split
from mobilette.data.images import LabelledImage
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.data.splits import Split, choose_split
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.model.class_matching import guessed, match_classes, relabelled
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.run.metrics import Metrics, measure


@checked
def evaluate(
    model: str | Path | Run | Artifact | Model | Predictor,
    data: str | Path,
    *,
    split: str | None = None,
    workers: int | None = None,
    max_unusable: float = 0.1,
    reporter: Reporter = SILENT,
) -> Metrics:
    """Return accuracy, loss and confusions of ``model`` on the images of ``data``.

    Args:
        model: a run, an artifact or a model, the directory of one, or the result of `load`.
        data: images of the model's classes or some of them, in any form that `find_images` reads.
        split: by default ``val`` if there is one, else all images.
        workers: processes that decode; by default one per core.
        max_unusable: largest fraction of images that may be unreadable.
        reporter: receives the number of images read, each image left out, and how folders and
            classes were understood if that is not obvious.

    Raises:
        InputError: the images cannot be used, or have a class that the model lacks.
    """
    predictor = model if isinstance(model, Predictor) else load(model)
    predictor.check_classifier()
    reading = Reading(workers=workers, max_unusable=max_unusable, split=split)
    labelled = labelled_images(
        data, predictor.classes, split=reading.split, multi_label=predictor.multi_label
    )
    for line in labelled.remarks:
        reporter.remark(line)
    pixels, unusable = read_split(predictor, labelled.images, reading, reporter)
    for name, reason in unusable:
        reporter.remark(f"left out: {name}: {reason}")
    ids = [label.id for label in predictor.classes]
    found = measure(predictor.logits(pixels.pixels[:]), pixels.labels, ids)
    return replace(found, classes_matched_by=labelled.matched_by)


def read_split(
    side: Predictor | Model, images: Sequence[LabelledImage], reading: Reading, reporter: Reporter
) -> tuple[Split, tuple[tuple[str, str], ...]]:
    """Return images as ``side`` prepares them, and those left out, as `load_split` does."""
    return load_split(
        images,
        num_classes=len(side.classes),
        resolution=side.arch.resolution,
        preprocess=side.preprocess,
        reading=reading,
        reporter=reporter,
    )


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A split's images, labelled by a model's classes.

    Attributes:
        matched_by: how the images' classes were matched to the model's (`match_classes`).
        remarks: what the user should know, one line each.
    """

    images: tuple[LabelledImage, ...]
    matched_by: str
    remarks: tuple[str, ...]


def labelled_images(
    data: str | Path,
    classes: Sequence[ClassLabel],
    *,
    split: str | None,
    multi_label: bool = False,
) -> Labelled:
    """Return a split's images, labelled by ``classes``; ``multi_label`` allows several."""
    found = find_images(data)
    index, by = match_classes(found.classes, classes, where=found.name)
    if found.multi_label and not multi_label:
        raise InputError(
            f"{found.name}: images may have several classes; this model answers with one"
        )
    _, images = choose_split(found, split)
    return Labelled(
        images=relabelled(images, index, multi_label=multi_label),
        matched_by=by,
        remarks=(*found.remarks, *guessed(by)),
    )

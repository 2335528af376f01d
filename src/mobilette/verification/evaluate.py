"""`evaluate`: the accuracy of a run or an artifact on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.arguments import checked
from mobilette.data.cores import usable_cores
from mobilette.data.dataset import load_split
from mobilette.data.images import LabelledImage
from mobilette.data.reading import LoadReport
from mobilette.data.sources import find_images
from mobilette.data.splitting import choose_split
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.model.class_matching import guessed, match_classes, relabelled
from mobilette.model.classes import ClassLabel
from mobilette.run.metrics import Metrics, measure

UnusableReport = Callable[[str, str], None]


@checked
def evaluate(
    predictor: Predictor,
    data: str | Path,
    *,
    split: str | None = None,
    workers: int | None = None,
    max_unusable: float = 0.1,
    report_load: LoadReport | None = None,
    on_unusable: UnusableReport | None = None,
    remark: Callable[[str], None] | None = None,
) -> Metrics:
    """Return accuracy, loss and confusions of ``predictor`` on the images of ``data``.

    Args:
        predictor: what `load` returned.
        data: images of the model's classes, or some of them (`find_images` tells the forms).
        split: by default ``val`` where there is one, else every image.
        workers: processes that decode; ``None`` means one a core.
        max_unusable: the part of the images that may be unusable.
        report_load: called with (images read, images in all).
        on_unusable: called with (name, reason) for each image that is left out.
        remark: called with a line about how the folders were understood, and the model's classes
            found among them, where that is not plain.

    Raises:
        InputError: the images cannot be used, or a class is none of the model's.
    """
    labelled = labelled_images(
        data, predictor.classes, split=split, multi_label=predictor.multi_label
    )
    if remark is not None:
        for line in labelled.remarks:
            remark(line)
    pixels, unusable = load_split(
        labelled.images,
        num_classes=len(predictor.classes),
        resolution=predictor.arch.resolution,
        preprocess=predictor.preprocess,
        workers=usable_cores() if workers is None else workers,
        max_unusable=max_unusable,
        on_progress=report_load,
    )
    for name, reason in unusable:
        if on_unusable is not None:
            on_unusable(name, reason)
    ids = [label.id for label in predictor.classes]
    found = measure(predictor.logits(pixels.pixels[:]), pixels.labels, ids)
    return replace(found, classes_matched_by=labelled.matched_by)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The images of a split, labelled by the classes of a model.

    Attributes:
        images: in the set's order.
        matched_by: how its classes were found among the model's (`match_classes`).
        remarks: what whoever asked for them should know, each one line.
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
    """Return the images of a split, labelled by ``classes``.

    With ``multi_label`` images of one class each are taken, too.

    Raises:
        InputError: the images cannot be used, a class is none of ``classes``, or they may be of
            several classes and this is not ``multi_label``.
    """
    found = find_images(data)
    index, by = match_classes(found.classes, classes, where=found.name)
    if found.multi_label and not multi_label:
        raise InputError(
            f"{found.name}: images of several classes; the model was trained to answer with one"
        )
    _, images = choose_split(found, split)
    return Labelled(
        images=relabelled(images, index, multi_label=multi_label),
        matched_by=by,
        remarks=(*found.remarks, *guessed(by)),
    )

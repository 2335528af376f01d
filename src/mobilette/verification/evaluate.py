"""`evaluate`: the accuracy of a run or an artifact on pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mobilette.data.cores import usable_cores
from mobilette.data.dataset import load_split
from mobilette.data.labels import indices_of
from mobilette.data.pictures import Picture
from mobilette.data.reading import LoadReport
from mobilette.data.sources import find_pictures
from mobilette.data.splitting import choose_split
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.run.class_matching import match_classes
from mobilette.run.classes import ClassLabel
from mobilette.run.metrics import Metrics, measure

UnusableReport = Callable[[str, str], None]


def evaluate(
    predictor: Predictor,
    data: str | Path,
    *,
    split: str | None = None,
    workers: int | None = None,
    max_unusable: float = 0.1,
    report_load: LoadReport | None = None,
    on_unusable: UnusableReport | None = None,
    on_matched: Callable[[str], None] | None = None,
) -> Metrics:
    """Return accuracy, loss and confusions of ``predictor`` on the pictures of ``data``.

    Args:
        predictor: what `load` returned.
        data: pictures of the model's classes, or some of them (`find_pictures` tells the forms).
        split: by default ``val`` where there is one, else every picture.
        workers: processes that decode; ``None`` means one a core.
        max_unusable: the part of the pictures that may be unusable.
        report_load: called with (pictures read, pictures in all).
        on_unusable: called with (name, reason) for each picture that is left out.
        on_matched: called with how the folders were matched with the model's classes (`BY_NAME`,
            `BY_SYNSET` or `BY_ORDER`).

    Raises:
        InputError: the pictures cannot be used, or a class is none of the model's.
    """
    pictures, by = labelled_pictures(
        data, predictor.classes, split=split, multi_label=predictor.multi_label
    )
    if on_matched is not None:
        on_matched(by)
    pixels, unusable = load_split(
        pictures,
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
    return measure(predictor.logits(pixels.pixels[:]), pixels.labels, ids)


def labelled_pictures(
    data: str | Path,
    classes: Sequence[ClassLabel],
    *,
    split: str | None,
    multi_label: bool = False,
) -> tuple[tuple[Picture, ...], str]:
    """Return the pictures of a split, labelled by ``classes``, and by what they were matched.

    With ``multi_label`` pictures of one class each are taken, too.

    Raises:
        InputError: the pictures cannot be used, a class is none of ``classes``, or they may be of
            several classes and this is not ``multi_label``.
    """
    found = find_pictures(data)
    index, by = match_classes(found.classes, classes, where=found.name)
    if found.multi_label and not multi_label:
        raise InputError(
            f"{found.name}: pictures of several classes; the model was trained to answer with one"
        )
    _, pictures = choose_split(found, split)
    labelled = []
    for picture in pictures:
        indices = tuple(sorted(index[number] for number in indices_of(picture.label)))
        labelled.append(replace(picture, label=indices if multi_label else indices[0]))
    return tuple(labelled), by

"""`evaluate`: the accuracy of a run or an artifact on pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mobilette.data.dataset import load_split
from mobilette.data.reading import LoadReport
from mobilette.data.sources import Picture, find_pictures
from mobilette.data.splitting import choose_split
from mobilette.engines.predictor import Predictor
from mobilette.run.classes import ClassLabel
from mobilette.run.metrics import Metrics, measure
from mobilette.training.process import usable_cores
from mobilette.verification.classes import match_classes

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
        data: a folder or a named set with the model's classes, or some of them.
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
    pictures, by = labelled_pictures(data, predictor.classes, split=split)
    if on_matched is not None:
        on_matched(by)
    pixels, unusable = load_split(
        pictures,
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
    return measure(predictor.logits(pixels.pixels), pixels.labels, ids)


def labelled_pictures(
    data: str | Path, classes: Sequence[ClassLabel], *, split: str | None
) -> tuple[tuple[Picture, ...], str]:
    """Return the pictures of a split, labelled by ``classes``, and by what they were matched.

    Raises:
        InputError: the pictures cannot be used, or a class is none of ``classes``.
    """
    found = find_pictures(data)
    index, by = match_classes(found.classes, classes, where=found.name)
    _, pictures = choose_split(found, split)
    return tuple(replace(picture, label=index[picture.label]) for picture in pictures), by

"""`evaluate`: the accuracy of a run or an artifact on pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.data.dataset import Split, load_split
from mobilette.data.preprocess import Preprocess
from mobilette.data.sources import Picture, PictureSet, find_pictures
from mobilette.data.splitting import choose_split
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError, nearest
from mobilette.run.classes import ClassLabel
from mobilette.run.metrics import Metrics, measure
from mobilette.training.process import usable_cores

LoadReport = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LabelledPictures:
    """Pictures of one split whose labels are indices into a model's classes."""

    split: str
    pictures: tuple[Picture, ...]


def evaluate(
    predictor: Predictor,
    data: str | Path,
    *,
    split: str | None = None,
    workers: int | None = None,
    max_unusable: float = 0.1,
    report_load: LoadReport | None = None,
) -> Metrics:
    """Return accuracy, loss and confusions of ``predictor`` on the pictures of ``data``.

    Args:
        predictor: what `load` returned.
        data: a folder or a named set with the model's classes, or some of them.
        split: by default ``val`` where there is one, else every picture.
        workers: processes that decode; ``None`` means one a core.
        max_unusable: the part of the pictures that may be unusable.
        report_load: called with (pictures read, pictures in all).

    Raises:
        InputError: the pictures cannot be used, or a class is none of the model's.
    """
    labelled = labelled_pictures(data, predictor.classes, split=split)
    pixels = read_for(
        labelled.pictures,
        predictor.arch.resolution,
        predictor.preprocess,
        workers=workers,
        max_unusable=max_unusable,
        report_load=report_load,
    )
    ids = [label.id for label in predictor.classes]
    return measure(predictor.logits(pixels.pixels), pixels.labels, ids)


def labelled_pictures(
    data: str | Path, classes: Sequence[ClassLabel], *, split: str | None
) -> LabelledPictures:
    """Return the pictures of a split, labelled by the order of ``classes``.

    Raises:
        InputError: the pictures cannot be used, or a class is none of ``classes``.
    """
    found = find_pictures(data)
    index = _match(found, classes)
    name, pictures = choose_split(found, split)
    relabelled = tuple(replace(picture, label=index[picture.label]) for picture in pictures)
    return LabelledPictures(split=name, pictures=relabelled)


def read_for(
    pictures: Sequence[Picture],
    resolution: int,
    preprocess: Preprocess,
    *,
    workers: int | None,
    max_unusable: float,
    report_load: LoadReport | None = None,
) -> Split:
    """Return the pixels of ``pictures`` as a network with this preprocessing wants them."""
    split, _ = load_split(
        pictures,
        resolution=resolution,
        preprocess=preprocess,
        workers=usable_cores() if workers is None else workers,
        max_unusable=max_unusable,
        on_progress=report_load,
    )
    return split


def _match(found: PictureSet, classes: Sequence[ClassLabel]) -> list[int]:
    """Return, for each class of the pictures, its index among the model's, by id."""
    index = {label.id: position for position, label in enumerate(classes)}
    for name in found.classes:
        if name not in index:
            some = ", ".join(list(index)[:5]) + (", ..." if len(index) > 5 else "")
            raise InputError(
                f"{found.name}: class {name!r} is none of the model's {len(index)} ({some})"
                f"{nearest(name, index)}"
            )
    return [index[name] for name in found.classes]

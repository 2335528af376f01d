"""Folds: what was asked for, what each run answers to its own, and the result."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal

from mobilette.arch.scale import Form, Resolution
from mobilette.data.division import Division, merged
from mobilette.data.images import ImageSet, indices_of
from mobilette.data.preprocess import Resize
from mobilette.data.reading import Reading, read_images
from mobilette.data.sources import find_images
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.files import guarded, read_json, write_text
from mobilette.limits import FOLDS, FRACTION, IN_CHANNELS, RESOLUTION, WIDTH_MULT, WORKERS
from mobilette.model.directory import DATASET
from mobilette.records import Ranged
from mobilette.run.directory import Run
from mobilette.run.metrics import sigmoid, softmax
from mobilette.run.tested import Tested
from mobilette.training.plan import NetworkChoice

PREDICTIONS = "predictions.csv"
COLUMNS = ("name", "class", "fold", "predicted", "probability")


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The result of `cross_validate`.

    Attributes:
        path: the folder with a run for each fold.
        runs: the runs, ``fold-1`` and so on.
        tested: the numbers of each on its fold, in the same order.
        predictions: a CSV file, one row per image: name, class, fold, and what the run that was
            not trained on it answers, with its probability.
    """

    path: Path
    runs: tuple[Run, ...]
    tested: tuple[Tested, ...]
    predictions: Path

    @property
    def top1(self) -> float:
        """The mean of the folds' top-1, 0 to 1."""
        return fmean(each.top1 for each in self.tested)

    @property
    def spread(self) -> float:
        """The standard deviation of the folds' top-1."""
        return stdev(each.top1 for each in self.tested)

    def to_json(self) -> dict[str, object]:
        """Return the content as JSON values."""
        return {
            "path": str(self.path),
            "top1": self.top1,
            "spread": self.spread,
            "images": sum(each.images for each in self.tested),
            "folds": [
                {"run": str(run.path)} | tested.to_json()
                for run, tested in zip(self.runs, self.tested, strict=True)
            ],
            "predictions": str(self.predictions),
        }


@dataclass(frozen=True, kw_only=True)
class Asked(Ranged):
    """The content of folds.json: what is needed to begin a fold; its recipe is the first one's."""

    data: str
    folds: Annotated[int, FOLDS]
    groups: str | None
    start: str
    model: str | None
    width_mult: Annotated[float, WIDTH_MULT] | None
    resolution: Annotated[Resolution, RESOLUTION] | None
    form: Form | None
    in_channels: Annotated[int, IN_CHANNELS] | None
    preprocess: str | None
    resize: Resize | None
    device: str
    workers: Annotated[int, WORKERS] | None
    max_unusable: Annotated[float, FRACTION]
    schema: Literal[1] = 1

    def division(self, fold: int) -> Division:
        """Return how the set is divided for a fold, from 1."""
        return Division(groups=self.groups, folds=self.folds, fold=fold)

    @property
    def choice(self) -> NetworkChoice:
        """The options of the network."""
        return NetworkChoice(
            self.model,
            self.width_mult,
            self.resolution,
            self.form,
            self.in_channels,
            self.preprocess,
            self.resize,
        )

    def images(self) -> ImageSet:
        """Find the images; `train` and `val` of a divided set are one."""
        return merged(find_images(self.data, groups=self.groups), self.division(1))


def write_predictions(path: Path, asked: Asked, runs: Sequence[Run]) -> None:
    """Write what each run answers to the images of its fold, which are read once more."""
    images = asked.images()
    by_name = {image.name: image for image in images.splits["all"]}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for fold, run in enumerate(runs, 1):
        recorded = read_json(run.path / DATASET)
        names = recorded.get("test_names") if isinstance(recorded, dict) else None
        if not isinstance(names, list) or not all(name in by_name for name in names):
            raise InputError(f"{asked.data}: the images have changed since {path} was begun")
        chosen = [by_name[name] for name in names]
        read = read_images(
            chosen,
            resolution=run.arch.resolution,
            preprocess=run.preprocess,
            reading=Reading(workers=asked.workers, max_unusable=1.0),
        )
        logits = load(run).logits(read.pixels)
        sure = sigmoid(logits) if run.multi_label else softmax(logits)
        for position, row in zip(read.positions.tolist(), sure, strict=True):
            image, best = chosen[position], int(row.argmax())
            true = ";".join(images.classes[index] for index in indices_of(image.label))
            table.writerow(
                (
                    guarded(image.name),
                    guarded(true),
                    fold,
                    guarded(run.classes[best].id),
                    f"{float(row[best]):.6f}",
                )
            )
    write_text(path / PREDICTIONS, text.getvalue())

"""`Run`: a run directory, read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mobilette.arch.arch import Arch
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD, read_bytes, read_json, write_json, write_text
from mobilette.model.classes import ClassLabel
from mobilette.model.directory import (
    DATASET,
    ENVIRONMENT,
    WEIGHTS,
    is_imported,
    is_model,
    read_origin,
    read_parts,
    read_weights,
    write_parts,
)
from mobilette.model.model import Model

if TYPE_CHECKING:
    from mobilette.nn.network import Network

LAUNCH = "launch"  # a key of environment.json: which start of torchrun made the run
MAX_UNUSABLE = "max_unusable"  # in DATASET: which part of the images may be broken
METRICS = "metrics.csv"
METRICS_HEADER = "epoch,step,seconds,lr,train_loss,val_loss,top1,top5,images_per_second"
MULTI_LABEL_HEADER = f"{METRICS_HEADER},mean_average_precision"
RECIPE = "recipe.toml"
STATE = "last.pt"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory: an architecture, its classes, its preprocessing and its weights.

    ``multi_label`` tells that an image may be of none or of several classes; without
    ``has_classifier`` the weights are a start for training, and cannot answer.
    """

    path: Path
    arch: Arch
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...]
    multi_label: bool = False
    has_classifier: bool = True

    def history(self) -> list[dict[str, float]]:
        """Return the lines of metrics.csv, one an epoch, by column; none of an imported run.

        A column that is empty, as top-5 of few classes, is left out.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.path / METRICS
        if not path.exists() and is_imported(self.path):
            return []
        try:
            lines = read_bytes(path, limit=LARGEST_RECORD).decode().splitlines()
            if not lines or lines[0] not in (METRICS_HEADER, MULTI_LABEL_HEADER):
                raise InputError(f"{path}: damaged (other columns than {MULTI_LABEL_HEADER})")
            columns = lines[0].split(",")
            rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines[1:]]
            if not rows:
                raise InputError(f"{path}: no epoch is finished yet")
            return [{name: float(text) for name, text in row.items() if text} for row in rows]
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: damaged ({error})") from error

    def best(self) -> dict[str, float] | None:
        """Return the line of metrics.csv that the best weights are of; ``None`` if there is none.

        It is the one with the highest top-1, or, of a multi-label run, with the highest mean
        average precision.

        Raises:
            InputError: as `history` does.
        """
        score = "mean_average_precision" if self.multi_label else "top1"
        return max(self.history(), key=lambda row: row.get(score, row["top1"]), default=None)

    @property
    def weights_path(self) -> Path:
        """The file of the best weights."""
        return self.path / WEIGHTS

    @cached_property
    def model(self) -> Model:
        """The model with the best weights.

        Raises:
            InputError: the weights are missing, damaged or of another network.
        """
        return Model(
            arch=self.arch,
            weights=read_weights(self.weights_path, self.arch),
            preprocess=self.preprocess,
            classes=self.classes,
            multi_label=self.multi_label,
            has_classifier=self.has_classifier,
            origin=read_origin(self.path, self.arch),
        )

    @property
    def network(self) -> Network:
        """The network with the best weights, ready to answer (`Model.network`)."""
        return self.model.network


def check_apart(out: Path, run: Path, role: str) -> None:
    """Raise `InputError` if a run written to ``out`` would replace ``run``, told by a ``role``."""
    if out.resolve() in (run.resolve(), *run.resolve().parents):
        raise InputError(f"{out}: {run}, {role}, lies there; give another --out")


def open_run(path: str | Path) -> Run:
    """Return the run in the directory ``path``.

    Raises:
        InputError: it is no run directory, or one of its files is damaged.
    """
    path = Path(path)
    return Run(path=path, **read_parts(path))


is_run = is_model


def recorded_data(path: Path) -> str:
    """Return the images that the run in ``path`` was trained on, as it recorded them.

    Raises:
        InputError: dataset.json is missing or damaged.
    """
    recorded = read_json(path / DATASET)
    data = recorded.get("path") if isinstance(recorded, dict) else None
    if not isinstance(data, str):
        raise InputError(f"{path / DATASET}: key 'path' is missing")
    return data


def write_run(
    folder: Path,
    *,
    arch: Arch,
    preprocess: Preprocess,
    classes: tuple[ClassLabel, ...],
    recipe: str,
    dataset: dict[str, object],
    environment: dict[str, object],
) -> None:
    """Write into ``folder`` everything of a run that is known before the first step."""
    write_parts(folder, arch, preprocess, classes)
    write_text(folder / RECIPE, recipe)
    write_json(folder / DATASET, dataset)
    write_json(folder / ENVIRONMENT, environment)

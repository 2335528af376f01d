"""`Run`: a run directory, read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mobilette.arch.arch import Arch
from mobilette.data.preprocess import Preprocess
from mobilette.data.sources import NAMED
from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD, read_bytes, read_json, write_json, write_text
from mobilette.model.answering import PLAIN, Answering
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

LAUNCH = "launch"  # key of environment.json: the torchrun launch that created the run
MAX_UNUSABLE = "max_unusable"  # key of DATASET: the fraction of images that may be broken
METRICS = "metrics.csv"
METRICS_HEADER = "epoch,step,seconds,lr,train_loss,val_loss,top1,top5,images_per_second"
MULTI_LABEL_HEADER = f"{METRICS_HEADER},mean_average_precision"
RECIPE = "recipe.toml"
STATE = "last.pt"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory: its architecture, classes, preprocessing and weights.

    With ``multi_label``, an image may have no class or several. Without ``has_classifier``, the
    weights are a start for training and cannot classify. ``answering`` says how the logits become
    probabilities, and when the answer is ``unknown``.
    """

    path: Path
    arch: Arch
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...]
    multi_label: bool = False
    has_classifier: bool = True
    answering: Answering = PLAIN

    def history(self) -> list[dict[str, float]]:
        """Return the rows of metrics.csv, one per epoch, by column; none for an imported run.

        Empty columns, such as top-5 with few classes, are left out.

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
        """Return the row of metrics.csv for the best weights, if there is one.

        The best epoch has the highest top-1 or, in a multi-label run, mean average precision.

        Raises:
            InputError: metrics.csv is missing or damaged.
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
            answering=self.answering,
            origin=read_origin(self.path, self.arch),
        )

    @property
    def network(self) -> Network:
        """The network with the best weights, in evaluation mode (`Model.network`)."""
        return self.model.network


def check_apart(out: Path, run: Path, role: str) -> None:
    """Raise `InputError` if writing to ``out`` would replace ``run``, described by ``role``."""
    if out.resolve() in (run.resolve(), *run.resolve().parents):
        raise InputError(f"{out}: {run}, {role}, lies there; give another --out")


def open_run(path: str | Path) -> Run:
    """Return the run in the directory ``path``.

    Raises:
        InputError: it is not a run directory, or one of its files is damaged.
    """
    path = Path(path)
    return Run(path=path, **read_parts(path))


is_run = is_model


def recorded_data(path: Path) -> str:
    """Return the training data's path as recorded by the run in ``path``.

    Raises:
        InputError: dataset.json is missing or damaged.
    """
    recorded = read_json(path / DATASET)
    data = recorded.get("path") if isinstance(recorded, dict) else None
    if not isinstance(data, str):
        raise InputError(f"{path / DATASET}: key 'path' is missing")
    return data


def recorded_path(data: str | Path) -> str:
    """Return the data as an absolute path, or the name of a set."""
    named = str(data) in NAMED and not (isinstance(data, Path) and data.exists())
    return str(data) if named else str(Path(data).resolve())


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
    """Write everything that is known before the first step into ``folder``."""
    write_parts(folder, arch, preprocess, classes)
    write_text(folder / RECIPE, recipe)
    write_json(folder / DATASET, dataset)
    write_json(folder / ENVIRONMENT, environment)

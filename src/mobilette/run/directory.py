"""`Run`: a run directory, read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mobilette.arch.arch import Arch
from mobilette.counting.memory import check_memory
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError, shown
from mobilette.files import (
    LARGEST_RECORD,
    read_bytes,
    read_json,
    read_record,
    write_json,
    write_text,
)
from mobilette.folders import restore
from mobilette.model.classes import ClassLabel, classes_text, read_classes

if TYPE_CHECKING:
    from torch import Tensor

    from mobilette.nn.network import Network

T = TypeVar("T")

ARCH = "arch.json"
CLASSES = "classes.txt"
DATASET = "dataset.json"
ENVIRONMENT = "environment.json"
IMPORTED = "imported"  # a key of environment.json
CLASSIFIER = "classifier"  # in IMPORTED: whether the network has one
MULTI_LABEL = "multi_label"  # in DATASET and in IMPORTED
LAUNCH = "launch"  # another one: which start of torchrun made the run
MAX_UNUSABLE = "max_unusable"  # in DATASET: which part of the images may be broken
METRICS = "metrics.csv"
METRICS_HEADER = "epoch,step,seconds,lr,train_loss,val_loss,top1,top5,images_per_second"
MULTI_LABEL_HEADER = f"{METRICS_HEADER},mean_average_precision"
PREPROCESS = "preprocess.json"
RECIPE = "recipe.toml"
STATE = "last.pt"
WEIGHTS = "best.safetensors"


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
    def network(self) -> Network:
        """The network with the best weights, ready to answer.

        Raises:
            InputError: the weights are missing, damaged or of another network, or have no
                classifier.
        """
        from mobilette.nn.network import build_empty

        if not self.has_classifier:
            raise InputError(
                f"{self.path}: its weights were imported from a file without a classifier; "
                f"'mobilette train DATA --from {shlex.quote(str(self.path))}' trains one"
            )
        network = build_empty(self.arch)
        network.load_state_dict(self.read_weights(), assign=True)
        return network.eval()

    def read_weights(self) -> dict[str, Tensor]:
        """Return the best weights by name.

        Raises:
            InputError: the file is missing, damaged, or its tensors are not this network's.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from mobilette.nn.network import build_empty

        if not self.weights_path.is_file():
            command = shlex.join(["mobilette", "train", "--resume", str(self.path)])
            raise InputError(
                f"{self.weights_path}: {_why_no_file(self.weights_path)}; '{command}' makes them "
                "if the run was stopped, one that was finished has to be trained again"
            )
        try:
            tensors = load_file(self.weights_path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{self.weights_path}: not a complete safetensors file ({error})"
            ) from error
        _check_tensors(tensors, build_empty(self.arch), self.weights_path)
        return tensors


def _why_no_file(path: Path) -> str:
    if path.is_symlink():
        return f"a link to {shown(str(path.readlink()))}, where no file is"
    return "a folder, not a file" if path.is_dir() else "missing"


def check_apart(out: Path, run: Path, role: str) -> None:
    """Raise `InputError` if a run written to ``out`` would replace ``run``, told by a ``role``."""
    if out.resolve() in (run.resolve(), *run.resolve().parents):
        raise InputError(f"{out}: {run}, {role}, lies there; give another --out")


def is_run(path: Path) -> bool:
    """Whether ``path`` looks like a run directory."""
    return (path / ARCH).is_file() and (path / CLASSES).is_file()


def open_run(path: str | Path) -> Run:
    """Return the run in the directory ``path``.

    Raises:
        InputError: it is no run directory, or one of its files is damaged.
    """
    path = Path(path)
    restore(path)
    if not is_run(path):
        what = "no such folder" if not path.exists() else f"no {ARCH} and {CLASSES} in it"
        raise InputError(f"{path}: not a run directory ({what}); 'mobilette train' makes one")
    arch = read_record(path / ARCH, Arch)
    _locate(path / ARCH, check_memory, arch)
    classes = read_classes(path / CLASSES)
    if len(classes) != arch.num_classes:
        raise InputError(
            f"{path / CLASSES}: {len(classes)} classes, but the network has {arch.num_classes}"
        )
    preprocess = read_record(path / PREPROCESS, Preprocess)
    if preprocess.channels != arch.in_channels:
        raise InputError(
            f"{path / PREPROCESS}: {preprocess.channels} channels, but the network has "
            f"{arch.in_channels}"
        )
    _locate(path / PREPROCESS, preprocess.check_resolution, arch.resolution)
    return Run(
        path=path,
        arch=arch,
        preprocess=preprocess,
        classes=classes,
        multi_label=_recorded(path, MULTI_LABEL, default=False),
        has_classifier=_recorded(path, CLASSIFIER, default=True),
    )


def _locate(path: Path, check: Callable[[T], None], value: T) -> None:
    """Call ``check`` with ``value``; what it refuses is said to stand in the file ``path``."""
    try:
        check(value)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def is_imported(path: Path) -> bool:
    """Whether the run in ``path`` was imported instead of trained, as its environment.json tells.

    Raises:
        InputError: environment.json is damaged.
    """
    return IMPORTED in _read_if_there(path / ENVIRONMENT)


def _read_if_there(path: Path) -> Mapping[str, object]:
    recorded = read_json(path) if path.exists() else None
    return recorded if isinstance(recorded, dict) else {}


def _recorded(path: Path, key: str, *, default: bool) -> bool:
    """Return what the set that a run was trained on, or the file it was imported from, says."""
    imported = _read_if_there(path / ENVIRONMENT).get(IMPORTED)
    dataset = _read_if_there(path / DATASET)
    for name, record in ((ENVIRONMENT, imported), (DATASET, dataset)):
        if isinstance(record, dict) and key in record:
            value = record[key]
            if not isinstance(value, bool):
                raise InputError(f"{path / name}: {key} is {value!r:.60}, not true or false")
            return value
    return default


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
    write_json(folder / ARCH, arch.to_json())
    write_json(folder / PREPROCESS, asdict(preprocess))
    write_text(folder / CLASSES, classes_text(classes))
    write_text(folder / RECIPE, recipe)
    write_json(folder / DATASET, dataset)
    write_json(folder / ENVIRONMENT, environment)


def _check_tensors(tensors: dict[str, Tensor], empty: Network, path: Path) -> None:
    """Raise `InputError` unless ``tensors`` are exactly the network's by shape, and finite."""
    expected = empty.state_dict()
    model = empty.arch.name
    for name, like in expected.items():
        if name not in tensors:
            raise InputError(f"{path}: tensor {name!r} of {model} is missing")
        if tensors[name].shape != like.shape:
            raise InputError(
                f"{path}: tensor {name!r} is {tuple(tensors[name].shape)}, "
                f"but {model} needs {tuple(like.shape)}"
            )
        if tensors[name].dtype != like.dtype:
            raise InputError(f"{path}: tensor {name!r} is {tensors[name].dtype}, not float32")
        if not tensors[name].isfinite().all():
            raise InputError(f"{path}: tensor {name!r} has values that are not finite")
    for name in tensors.keys() - expected.keys():
        raise InputError(f"{path}: tensor {name!r} is none of {model}'s")

"""A model's directory: the part of a run directory without the training records."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import convs
from mobilette.arch.scale import Form, Settings
from mobilette.counting.candidates import USUAL_WIDTHS
from mobilette.counting.cost import check_memory
from mobilette.counting.published import published_widths
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError, shown
from mobilette.files import read_bytes, read_json, read_record, write_bytes, write_json, write_text
from mobilette.folders import new_directory, restore
from mobilette.model.answering import PLAIN, Answering
from mobilette.model.classes import ClassLabel, classes_text, read_classes
from mobilette.model.model import Model, Origin, check_finite, check_parts, check_tensors

T = TypeVar("T")

ANSWERING = "answering.json"
ARCH = "arch.json"
CLASSES = "classes.txt"
DATASET = "dataset.json"
ENVIRONMENT = "environment.json"
PREPROCESS = "preprocess.json"
WEIGHTS = "best.safetensors"
IMPORTED = "imported"  # key of environment.json: the run was imported, not trained
ORIGIN = "origin"  # key of environment.json: name, width multiplier and form
CLASSIFIER = "classifier"  # key of IMPORTED: whether the network has one
MULTI_LABEL = "multi_label"  # key of DATASET and IMPORTED
PRUNED_FROM = "pruned from"  # key of IMPORTED in earlier versions


class Parts(TypedDict):
    """A model without its weights."""

    arch: Arch
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...]
    multi_label: bool
    has_classifier: bool
    answering: Answering


def is_model(path: Path) -> bool:
    """Whether ``path`` looks like a model's directory."""
    return (path / ARCH).is_file() and (path / CLASSES).is_file()


def read_parts(path: Path) -> Parts:
    """Return everything but the weights of the model in the directory ``path``.

    Raises:
        InputError: there is none, or one of its files is damaged.
    """
    restore(path)
    if not is_model(path):
        what = "no such folder" if not path.exists() else f"no {ARCH} and {CLASSES} in it"
        raise InputError(f"{path}: not a run directory ({what}); 'mobilette train' makes one")
    arch = read_record(path / ARCH, Arch)
    locate(path / ARCH, check_memory, arch)
    classes = read_classes(path / CLASSES)
    preprocess = read_record(path / PREPROCESS, Preprocess)
    locate(path, check_parts, arch, preprocess, classes)
    return Parts(
        arch=arch,
        preprocess=preprocess,
        classes=classes,
        multi_label=_recorded(path, MULTI_LABEL, default=False),
        has_classifier=_recorded(path, CLASSIFIER, default=True),
        answering=read_answering(path),
    )


def read_answering(path: Path) -> Answering:
    """Return how the model in the directory ``path`` answers; runs of old versions record nothing.

    Raises:
        InputError: the record is damaged.
    """
    record = path / ANSWERING
    return read_record(record, Answering) if record.exists() else PLAIN


def read_model(path: Path) -> Model:
    """Return the model in the directory ``path``.

    Raises:
        InputError: there is none, or one of its files is damaged.
    """
    parts = read_parts(path)
    weights = read_weights(path / WEIGHTS, parts["arch"])
    return Model(weights=weights, origin=read_origin(path, parts["arch"]), **parts)


def read_weights(path: Path, arch: Arch) -> dict[str, Tensor]:
    """Return the tensors in the safetensors file ``path`` by name.

    Raises:
        InputError: it is missing or damaged, or does not match ``arch``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        command = shlex.join(["mobilette", "train", "--resume", str(path.parent)])
        raise InputError(
            f"{path}: {_why_no_file(path)}; '{command}' makes them "
            "if the run was stopped, one that was finished has to be trained again"
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error})") from error
    locate(path, check_tensors, tensors, arch)
    locate(path, check_finite, tensors)
    return tensors


def _why_no_file(path: Path) -> str:
    if path.is_symlink():
        return f"a link to {shown(str(path.readlink()))}, where no file is"
    return "a folder, not a file" if path.is_dir() else "missing"


def read_origin(path: Path, arch: Arch) -> Origin:
    """Return the origin of the model in the directory ``path``: that directory.

    For runs of earlier versions, which recorded no width multiplier, the usual widths are compared.

    Raises:
        InputError: environment.json is damaged.
    """
    environment = _read_if_there(path / ENVIRONMENT)
    imported, origin = environment.get(IMPORTED), environment.get(ORIGIN)
    source = str(path.resolve())
    if isinstance(imported, Mapping) and PRUNED_FROM in imported:
        source = f"{imported[PRUNED_FROM]}, pruned"
    sha256 = hashlib.sha256(read_bytes(path / WEIGHTS)).hexdigest()
    if isinstance(origin, Mapping):
        width_mult, form = origin.get("width_mult"), origin.get("form")
        numeric = width_mult is None or isinstance(width_mult, float | int)
        if not numeric or form not in ("small", "full", None):
            raise InputError(f"{path / ENVIRONMENT}: {ORIGIN} is {shown(origin)}")
    else:
        width_mult, form = _find_width(arch)
    return Origin(name=arch.name, width_mult=width_mult, form=form, source=source, sha256=sha256)


def described(origin: Origin) -> dict[str, object]:
    """Return the record of a trained network's ``origin`` for environment.json."""
    return {"name": origin.name, "width_mult": origin.width_mult, "form": origin.form}


def write_model(folder: Path, model: Model, *, force: bool = False) -> Path:
    """Write ``model`` into ``folder`` and return ``folder``; see `Model.save`."""
    from safetensors.torch import save

    origin = model.origin
    imported = {
        "file": origin.source,
        "sha256": origin.sha256,
        "tensors": origin.tensors,
        "unused": list(origin.unused),
        "remarks": list(origin.remarks),
        MULTI_LABEL: model.multi_label,
        CLASSIFIER: model.has_classifier,
    }
    with new_directory(folder, holds=ARCH, force=force) as unfinished:
        write_parts(unfinished, model.arch, model.preprocess, model.classes)
        write_json(unfinished / ENVIRONMENT, {IMPORTED: imported, ORIGIN: described(origin)})
        contiguous = {name: tensor.contiguous() for name, tensor in model.weights.items()}
        write_bytes(unfinished / WEIGHTS, save(contiguous))
        if model.answering != PLAIN:
            write_json(unfinished / ANSWERING, asdict(model.answering))
    return folder


def write_parts(
    folder: Path, arch: Arch, preprocess: Preprocess, classes: Iterable[ClassLabel]
) -> None:
    """Write everything of a model but its weights into ``folder``."""
    write_json(folder / ARCH, arch.to_json())
    write_json(folder / PREPROCESS, asdict(preprocess))
    write_text(folder / CLASSES, classes_text(tuple(classes)))


def is_imported(path: Path) -> bool:
    """Whether environment.json says that the run in ``path`` was imported, not trained.

    Raises:
        InputError: environment.json is damaged.
    """
    return IMPORTED in _read_if_there(path / ENVIRONMENT)


def imported_from(path: Path) -> str | None:
    """Return what the model in ``path`` was imported from; ``None`` if it was trained there.

    Raises:
        InputError: environment.json is damaged.
    """
    environment = _read_if_there(path / ENVIRONMENT)
    imported = environment.get(IMPORTED)
    if IMPORTED not in environment:
        return None
    return (
        str(imported.get("file", imported.get(PRUNED_FROM))) if isinstance(imported, dict) else ""
    )


def locate(path: Path, check: Callable[..., T], *values: Any) -> T:
    """Return ``check(*values)``; an `InputError` is prefixed with ``path``."""
    try:
        return check(*values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_if_there(path: Path) -> Mapping[str, object]:
    recorded = read_json(path) if path.exists() else None
    return recorded if isinstance(recorded, dict) else {}


def _recorded(path: Path, key: str, *, default: bool) -> bool:
    """Return the value recorded with the imported file or the data set, or ``default``."""
    imported = _read_if_there(path / ENVIRONMENT).get(IMPORTED)
    dataset = _read_if_there(path / DATASET)
    for name, record in ((ENVIRONMENT, imported), (DATASET, dataset)):
        if isinstance(record, dict) and key in record:
            value = record[key]
            if not isinstance(value, bool):
                raise InputError(f"{path / name}: {key} is {value!r:.60}, not true or false")
            return value
    return default


def _find_width(arch: Arch) -> tuple[float | None, Form | None]:
    """Return the usual width multiplier and form that give ``arch`` its channels, if any."""
    forms: tuple[Form, ...] = ("full", "small")
    channels = _channels(arch)
    for width_mult in sorted({*USUAL_WIDTHS, *published_widths(arch.name)}):
        for form in forms:
            try:
                usual = get_arch(arch.name, Settings(width_mult=width_mult, form=form))
            except InputError:  # not in the catalogue, or an unsupported width
                continue
            if _channels(usual) == channels:
                return width_mult, form
    return None, None


def _channels(arch: Arch) -> dict[str, int]:
    """Return the channels of every convolution except a classifier."""
    named = convs(arch.with_classes(1)).items()
    return {name: conv.channels for name, conv in named}

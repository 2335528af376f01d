"""A run that was imported instead of trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.data.preprocess import Preprocess
from mobilette.files import read_json, write_bytes, write_json, write_text
from mobilette.folders import new_directory
from mobilette.model.classes import ClassLabel, classes_text
from mobilette.run.directory import (
    ARCH,
    CLASSES,
    CLASSIFIER,
    ENVIRONMENT,
    IMPORTED,
    MULTI_LABEL,
    PREPROCESS,
    WEIGHTS,
    Run,
    open_run,
)

PRUNED_FROM = "pruned from"  # a key of the origin: the run that this one is cut from


def name_of_weights(run: Run) -> str:
    """Return what a run that starts from ``run`` records: its path, or what it is cut from.

    Raises:
        InputError: environment.json is damaged.
    """
    path = run.path / ENVIRONMENT
    environment = read_json(path) if path.exists() else None
    origin = environment.get(IMPORTED) if isinstance(environment, dict) else None
    if isinstance(origin, dict) and PRUNED_FROM in origin:
        return f"{origin[PRUNED_FROM]}, pruned"
    return str(run.path.resolve())


def write_imported_run(
    folder: Path,
    *,
    arch: Arch,
    preprocess: Preprocess,
    classes: tuple[ClassLabel, ...],
    weights: Mapping[str, Tensor],
    origin: Mapping[str, object],
    multi_label: bool = False,
    has_classifier: bool = True,
    force: bool = False,
) -> Run:
    """Write a run directory without recipe, metrics and images, and return it.

    Args:
        folder: the run directory.
        arch: the network.
        preprocess: how images are prepared for it.
        classes: as many as the network has.
        weights: its state dict.
        origin: what environment.json records of where the weights are from.
        multi_label: whether each class is answered for by itself.
        has_classifier: whether the network can answer; without one it is a start for training.
        force: replace ``folder`` if it exists.

    Raises:
        InputError: ``folder`` exists or cannot be written; nothing is left behind.
    """
    from safetensors.torch import save

    with new_directory(folder, holds=ARCH, force=force) as unfinished:
        write_json(unfinished / ARCH, arch.to_json())
        write_json(unfinished / PREPROCESS, asdict(preprocess))
        write_text(unfinished / CLASSES, classes_text(classes))
        answers = {MULTI_LABEL: multi_label, CLASSIFIER: has_classifier}
        write_json(unfinished / ENVIRONMENT, {IMPORTED: {**origin, **answers}})
        contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
        write_bytes(unfinished / WEIGHTS, save(contiguous))
    return open_run(folder)

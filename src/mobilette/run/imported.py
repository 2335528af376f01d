"""A run that was imported instead of trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.data.preprocess import Preprocess
from mobilette.files import new_directory, write_bytes, write_json, write_text
from mobilette.run.classes import ClassLabel, classes_text
from mobilette.run.directory import (
    ARCH,
    CLASSES,
    ENVIRONMENT,
    IMPORTED,
    PREPROCESS,
    WEIGHTS,
    Run,
    open_run,
)


def write_imported_run(
    folder: Path,
    *,
    arch: Arch,
    preprocess: Preprocess,
    classes: tuple[ClassLabel, ...],
    weights: Mapping[str, Tensor],
    origin: Mapping[str, object],
    force: bool = False,
) -> Run:
    """Write a run directory without recipe, metrics and pictures, and return it.

    Args:
        folder: the run directory.
        arch: the network.
        preprocess: how pictures are prepared for it.
        classes: as many as the network has.
        weights: its state dict.
        origin: what environment.json records of where the weights are from.
        force: replace ``folder`` if it exists.

    Raises:
        InputError: ``folder`` exists or cannot be written; nothing is left behind.
    """
    from safetensors.torch import save

    with new_directory(folder, holds=ARCH, force=force) as unfinished:
        write_json(unfinished / ARCH, arch.to_json())
        write_json(unfinished / PREPROCESS, asdict(preprocess))
        write_text(unfinished / CLASSES, classes_text(classes))
        write_json(unfinished / ENVIRONMENT, {IMPORTED: dict(origin)})
        contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
        write_bytes(unfinished / WEIGHTS, save(contiguous))
    return open_run(folder)

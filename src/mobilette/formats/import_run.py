"""A published file becomes a run directory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilette.arch.scale import Form
from mobilette.data.preprocess import Preprocess, Resize
from mobilette.errors import InputError
from mobilette.formats.imported import Imported, as_model, preprocess_of
from mobilette.formats.importing import import_weights
from mobilette.model.classes import ClassLabel, read_classes
from mobilette.model.model import Origin
from mobilette.run.directory import Run, open_run


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedRun:
    """The run, and what was found in the file."""

    run: Run
    imported: Imported


def import_run(
    path: str | Path,
    *,
    model: str,
    out: str | Path,
    width_mult: float = 1.0,
    resolution: int | None = None,
    form: Form | None = None,
    classes: str | Path | Sequence[ClassLabel] | None = None,
    preprocess: str | Preprocess | None = None,
    resize: Resize | None = None,
    force: bool = False,
) -> ImportedRun:
    """Read a published file and write it as a run directory.

    Args:
        path: the file (`import_weights` says which).
        model: a name of `mobilette.list_models`.
        out: the run directory.
        width_mult: the width multiplier.
        resolution: in pixels; ``None`` takes the file's.
        form: ``small`` or ``full``; ``None`` goes by the resolution.
        classes: a file of classes (`read_classes`), or the classes; ``None`` numbers them.
        preprocess: a preset or a `Preprocess`; ``None`` takes what the file says.
        resize: how an image becomes square, unless ``preprocess`` is a `Preprocess`; ``None``
            does what the file says, or crops.
        force: replace ``out`` if it exists.

    Raises:
        InputError: as `import_weights`; or the number of classes is another, or nobody says how
            images are prepared. Nothing is left behind.
    """
    path = Path(path)
    labels = read_classes(Path(classes)) if isinstance(classes, str | Path) else classes
    imported = import_weights(
        path,
        model=model,
        width_mult=width_mult,
        resolution=resolution,
        form=form,
        num_classes=None if labels is None else len(labels),
    )
    count = imported.arch.num_classes
    if labels is not None and imported.has_classifier and len(labels) != count:
        raise InputError(f"{path}: {count:,} classes, but {len(labels):,} are in {classes}")
    if not isinstance(preprocess, Preprocess):
        preprocess = preprocess_of(imported, preprocess, resize=resize, where=str(path))
    origin = Origin(
        name=model, width_mult=width_mult, form=form, source=path.name, sha256=_digest(path)
    )
    imported_model = as_model(imported, preprocess=preprocess, classes=labels, origin=origin)
    imported_model.save(out, force=force)
    return ImportedRun(run=open_run(out), imported=imported)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder, by name."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()

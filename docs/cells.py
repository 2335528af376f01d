"""CSV files of measured cells, one per line; all values are text."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mobilette.files import write_text
from mobilette.run.directory import open_run

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Cell = TypeVar("Cell", bound=DataclassInstance)
else:
    Cell = TypeVar("Cell")


def read_cells(path: Path, kind: type[Cell]) -> list[Cell]:
    """Return the cells in the file ``path``; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [kind(**row) for row in csv.DictReader(file)]


def write_cells(path: Path, kind: type[Cell], cells: Iterable[Cell]) -> None:
    """Write the cells to the file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(cell) for cell in cells)
    write_text(path, text.getvalue())


def digest(run: Path) -> str:
    """Return a short hash that identifies the weights of a run."""
    return hashlib.sha256(open_run(run).weights_path.read_bytes()).hexdigest()[:12]

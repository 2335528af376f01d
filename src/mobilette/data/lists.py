"""Lists of pictures: one row a picture, with its path and its class or classes."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilette.data.pictures import SPLITS, Picture, PictureSet, by_split, check_set
from mobilette.errors import InputError, nearest, one_of
from mobilette.files import read_bytes

LIST_SUFFIXES = (".csv", ".tsv")
LARGEST_LIST = 2**30
_SEPARATORS = re.compile("[;|]")
_COLUMNS = ("path", "label", "labels", "split")


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One picture of a list."""

    line: int
    path: str
    classes: tuple[str, ...]
    split: str


def read_list(path: Path, name: str) -> PictureSet:
    """Return the pictures that the list ``path`` names; no picture is looked at.

    A picture that is missing costs that picture when it is to be read; everything else that is
    wrong in a list is an error.

    Args:
        path: a file laid out as `find_pictures` says; tabs separate the columns of a ``.tsv``.
        name: what the set is called.

    Raises:
        InputError: naming the line: a column or a label is missing, a row is ragged, a split is
            unknown, a picture is listed twice or lies outside the list's folder, ``val`` or
            ``test`` has a class that ``train`` has not, or it is no UTF-8 text.
    """
    table = _table(path)
    _, header = next(table, (0, []))
    columns = _columns(header, path)
    multi_label = "labels" in columns
    rows = [_row(path, line, fields, columns, len(header)) for line, fields in table]
    places = _locate(path, rows)
    by = "train" if "split" in columns else "all"
    classes = tuple(sorted({label for row in rows if row.split == by for label in row.classes}))
    index = {label: number for number, label in enumerate(classes)}
    found: dict[str, list[Picture]] = {}
    for row, (picture_name, file) in zip(rows, places, strict=True):
        for label in row.classes:
            if label not in index:
                raise InputError(
                    f"{path}: line {row.line}: class {label!r} is in {row.split} but not in train"
                    f"{nearest(label, classes)}"
                )
        indices = tuple(sorted({index[label] for label in row.classes}))
        picture = Picture(
            name=picture_name, label=indices if multi_label else indices[0], content=file
        )
        found.setdefault(row.split, []).append(picture)
    if by not in found:
        raise InputError(f"{path}: no row {'has the split train' if rows else 'with a picture'}")
    return check_set(
        PictureSet(
            name=name,
            classes=classes,
            splits=by_split(found),
            multi_label=multi_label,
            divided_by="list",
        )
    )


def _table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with the number of its last line."""
    data = read_bytes(path, limit=LARGEST_LIST)
    zero = data.find(b"\0")
    if zero >= 0:
        line = data.count(b"\n", 0, zero) + 1
        raise InputError(f"{path}: line {line}: a zero byte in it; a list is text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: not UTF-8; save the list as UTF-8") from error
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, [field.strip() for field in row]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from error


def _columns(header: list[str], path: Path) -> Mapping[str, int]:
    """Return where the known columns are."""
    where = f"{path}: line 1"
    others = [name for name in header if name not in _COLUMNS]
    for name in _COLUMNS:
        if header.count(name) > 1:
            raise InputError(f"{where}: column {name!r} is there twice")
    if "label" in header and "labels" in header:
        raise InputError(f"{where}: columns 'label' and 'labels'; a list has one of them")
    listed = ", ".join(map(repr, header)) or "none"
    for name in ("path", "label"):
        if name not in header and not (name == "label" and "labels" in header):
            wanted = "'label' (or 'labels', separated by ';')" if name == "label" else repr(name)
            raise InputError(
                f"{where}: column {wanted} is missing; the columns are {listed:.200}"
                f"{nearest(name, others)}"
            )
    if "split" not in header:  # a misspelt one would silently divide nothing
        for name in others:
            if nearest(name.lower(), ["split"]):
                raise InputError(f"{where}: column {name!r}; did you mean 'split'?")
    return {name: header.index(name) for name in _COLUMNS if name in header}


def _row(path: Path, line: int, fields: list[str], columns: Mapping[str, int], width: int) -> _Row:
    where = f"{path}: line {line}"
    if len(fields) != width:
        raise InputError(f"{where}: {len(fields)} fields, but the first row has {width}")
    picture = fields[columns["path"]]
    if not picture:
        raise InputError(f"{where}: the path is empty")
    split = "all"
    if "split" in columns:
        split = one_of(fields[columns["split"]], SPLITS, f"{where}: split")
    if "label" in columns:
        classes = [fields[columns["label"]]]
    else:
        together = fields[columns["labels"]]
        classes = [part.strip() for part in _SEPARATORS.split(together)] if together else []
    for label in classes:
        if not label:
            raise InputError(f"{where}: the label of {picture!r} is missing")
        if any(sign in label for sign in "\t\n\r"):
            raise InputError(f"{where}: label {label!r:.60} has a tab or a line break in it")
    return _Row(line=line, path=picture, classes=tuple(classes), split=split)


def _locate(path: Path, rows: list[_Row]) -> list[tuple[str, Path]]:
    """Return name and file of the picture in each row of the list ``path``.

    Raises:
        InputError: a picture lies outside the list's folder, or is listed twice.
    """
    root = path.parent
    places: list[tuple[str, Path]] = []
    real = os.path.realpath(root)
    folders: dict[Path, bool] = {}  # so that the disk is asked once a folder, not once a picture
    seen: dict[str, int] = {}
    for row in rows:
        where = f"{path}: line {row.line}: {row.path!r}"
        relative = Path(row.path)
        file = root / relative
        if relative.anchor or ".." in relative.parts or not relative.parts:
            raise InputError(f"{where} is not inside the list's folder {root}")
        folder = file.parent
        if folder not in folders:
            folders[folder] = _is_inside(folder, real)
        if not folders[folder] or (_is_link(file) and not _is_inside(file, real)):
            raise InputError(f"{where} is a link to outside the list's folder {root}")
        name = relative.as_posix()
        first = seen.setdefault(name, row.line)
        if first != row.line:
            raise InputError(
                f"{where} is in line {first} already; the labels of a picture stand in one row, "
                "in a column 'labels'"
            )
        places.append((name, file))
    return places


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # such as a name that is too long: unusable when it is to be read
        return False


def _is_inside(path: Path, root: str) -> bool:
    real = os.path.realpath(path)
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)

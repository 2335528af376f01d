"""Lists of images: one row an image, with its path and its class or classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.data.images import SPLITS, ImageSet, LabelledImage, by_split, check_set
from mobilette.data.list_columns import (
    Columns,
    find_columns,
    is_header,
    is_row,
    split_at,
    without_header,
)
from mobilette.data.list_labels import read_labels
from mobilette.data.list_places import Listed, Places
from mobilette.data.list_table import Row, read_table
from mobilette.data.names import has_image_name
from mobilette.errors import InputError, nearest, one_of

LIST_SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One image of a list."""

    listed: Listed
    classes: tuple[str, ...]


def read_list(path: Path, name: str) -> ImageSet:
    """Return the images that the list ``path`` names; no image is looked at.

    An image that is missing costs that image when it is to be read; everything else that is
    wrong in a list is an error.

    Args:
        path: a file laid out as `find_images` says.
        name: what the set is called.

    Raises:
        InputError: naming the line: a column or a label is missing, a row is ragged, a split is
            unknown, an image has two rows that differ or lies outside the list's folder, ``val``
            or ``test`` has a class that ``train`` has not, or it is no text.
    """
    table = read_table(path, lambda fields: is_row(fields) or is_header(fields))
    header = table[0] if table else Row(line=1, fields=[])
    whole = is_row(header.fields)
    where = f"{path}: line {header.line}"
    if not (whole or is_header(header.fields)) and any(map(has_image_name, header.fields)):
        raise InputError(
            f"{where}: an image in the first row, which has {len(header.fields)} fields; a first "
            "row names the columns, such as path,label"
        )
    rows, comments = _without_comments(path, table if whole else table[1:], len(header.fields))
    columns = without_header(header.fields) if whole else find_columns(header.fields, rows, where)
    remarks = [columns.remark] if columns.remark else []
    labels = read_labels(rows, columns, str(path))
    remarks += labels.remarks
    if comments:
        remarks.append(f"{comments:,} rows begin with '#' and are comments")
    found = [
        _Entry(listed=_listed(path, row, columns), classes=classes)
        for row, classes in zip(rows, labels.classes, strict=True)
    ]
    if not labels.multi_label:
        found = _labelled(path, found, remarks)
    places = Places(list_path=path)
    files = places.locate([entry.listed for entry in found])
    remarks += places.remarks()
    images = _once(path, found, files, remarks)
    return _as_set(
        path,
        ImageSet(
            name=name,
            classes=(),
            splits={},
            multi_label=labels.multi_label,
            divided_by="list",
            remarks=(f"{name}: {'; '.join(remarks)}",) if remarks else (),
        ),
        images,
        divided=columns.split is not None,
    )


def _without_comments(path: Path, rows: Sequence[Row], width: int) -> tuple[list[Row], int]:
    """Return the rows of ``width`` fields, and how many others are comments.

    Raises:
        InputError: a row has more or fewer fields, and is no comment.
    """
    kept, comments = [], 0
    for row in rows:
        fields = row.fields
        if any(fields[width:]) or len(fields) < width:
            if not fields[0].startswith("#"):
                raise InputError(
                    f"{path}: line {row.line}: {len(fields)} fields, but the first row has {width}"
                )
            comments += 1
            continue
        kept.append(replace(row, fields=fields[:width]))
    return kept, comments


def _listed(path: Path, row: Row, columns: Columns) -> Listed:
    where = f"{path}: line {row.line}"
    image = row.fields[columns.path]
    if not image:
        raise InputError(f"{where}: the path is empty")
    split = "all"
    if columns.split is not None:
        text = row.fields[columns.split]
        split = split_at(text, columns.flag) or one_of(text, SPLITS, f"{where}: split")
    return Listed(line=row.line, path=image, split=split)


def _labelled(path: Path, found: Sequence[_Entry], remarks: list[str]) -> list[_Entry]:
    """Return the images that have a label; only some of ``test`` may have none.

    Raises:
        InputError: another has none.
    """
    without = [entry for entry in found if not entry.classes]
    for entry in without:
        if entry.listed.split != "test":
            raise InputError(
                f"{path}: line {entry.listed.line}: the label of {entry.listed.path!r} is missing "
                "(empty, or nan)"
            )
    if without:
        remarks.append(f"{len(without):,} images of test have no label and are left out")
    return [entry for entry in found if entry.classes]


def _once(
    path: Path, found: Sequence[_Entry], files: Sequence[tuple[str, Path]], remarks: list[str]
) -> list[tuple[_Entry, str, Path]]:
    """Return each image once.

    Raises:
        InputError: two rows say something different of it.
    """
    first: dict[str, _Entry] = {}
    once = []
    for entry, (name, file) in zip(found, files, strict=True):
        other = first.setdefault(name, entry)
        if other is entry:
            once.append((entry, name, file))
        elif (other.classes, other.listed.split) != (entry.classes, entry.listed.split):
            raise InputError(
                f"{path}: line {entry.listed.line}: {entry.listed.path!r} is in line "
                f"{other.listed.line} already; the labels of an image stand in one row, in a "
                "column 'labels'"
            )
    if len(once) < len(found):
        remarks.append(f"{len(found) - len(once):,} rows say the same as an earlier one")
    return once


def _as_set(
    path: Path,
    empty: ImageSet,
    images: Sequence[tuple[_Entry, str, Path]],
    *,
    divided: bool,
) -> ImageSet:
    by = "train" if divided else "all"
    if not any(entry.listed.split == by for entry, *_ in images):
        raise InputError(f"{path}: no row {'has the split train' if images else 'with an image'}")
    classes = tuple(
        sorted(
            {label for entry, *_ in images if entry.listed.split == by for label in entry.classes}
        )
    )
    index = {label: number for number, label in enumerate(classes)}
    found: dict[str, list[LabelledImage]] = {}
    for entry, name, file in images:
        split = entry.listed.split
        for label in entry.classes:
            if label not in index:
                raise InputError(
                    f"{path}: line {entry.listed.line}: class {label!r} is in {split} but not in "
                    f"train{nearest(label, classes)}"
                )
        indices = tuple(sorted({index[label] for label in entry.classes}))
        image = LabelledImage(
            name=name, label=indices if empty.multi_label else indices[0], content=file
        )
        found.setdefault(split, []).append(image)
    return check_set(replace(empty, classes=classes, splits=by_split(found)))

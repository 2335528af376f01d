"""Lists of images: one row per image, with its path and class or classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilette.data.groups import group_column
from mobilette.data.images import SPLITS, ImageSet, LabelledImage, by_split, check_set
from mobilette.data.list_columns import (
    Columns,
    check_label,
    find_columns,
    is_header,
    is_one,
    is_row,
    split_at,
    without_header,
)
from mobilette.data.list_paths import Listed, locate
from mobilette.data.list_table import Row, read_table
from mobilette.data.names import has_image_name
from mobilette.errors import InputError, nearest, one_of, shown

LIST_SUFFIXES = (".csv", ".tsv", ".txt")
_WHOLE, _NUMBER = re.compile(r"(-?\d+)(?:\.0*)?"), re.compile(r"-?\d*\.?\d+(?:[eE][-+]?\d+)?")
_SEPARATOR, _BRACKETED = "[;|]", re.compile(r"\[\s*['\"]")
_NO_LABEL = ("nan", "NaN", "<NA>")  # an empty cell, as pandas writes it
# From this many rows on, labels that are all different are not classes.
_MANY = 10


def read_list(path: Path, name: str, *, groups: str | None = None) -> ImageSet:
    """Return the images that the list ``path`` names, for a set called ``name``; opens no image.

    The layouts are those that `find_images` describes. A missing image is only reported when it is
    read; every other fault of a list is an error. ``groups`` may be a column of the list.

    Raises:
        InputError: naming the line: a column or a label is missing, a row is ragged, a split is
            unknown, an image has two different rows or lies outside the list's folder, ``val`` or
            ``test`` has a class that ``train`` lacks, or the file is not text.
    """
    table = read_table(path, lambda fields: is_row(fields) or is_header(fields))
    header = table[0] if table else Row(line=1, fields=[])
    whole = is_row(header.fields)
    where = f"{path}: line {header.line}"
    if not (whole or is_header(header.fields)) and any(map(has_image_name, header.fields)):
        raise InputError(
            f"{where}: the first row has an image and {len(header.fields)} fields; the first row "
            "names the columns, such as path,label"
        )
    remarks: list[str] = []
    rows, comments = _without_comments(path, table if whole else table[1:], len(header.fields))
    columns = without_header(header.fields) if whole else find_columns(header.fields, rows, where)
    if columns.remark:
        remarks.append(columns.remark)
    labels, multi_label = _read_labels(rows, columns, path, remarks)
    if comments:
        remarks.append(f"{comments:,} rows begin with '#' and are comments")
    column = None if whole else group_column(groups, header.fields, where)
    listed = [_listed(path, *each, columns, column) for each in zip(rows, labels, strict=True)]
    if not multi_label:
        listed = _labelled(path, listed, remarks)
    files, said = locate(path, listed)
    remarks += said
    images = _once(path, listed, files, remarks)
    return _as_set(
        path,
        ImageSet(
            name=name,
            classes=(),
            splits={},
            multi_label=multi_label,
            divided_by="list",
            remarks=(f"{name}: {'; '.join(remarks)}",) if remarks else (),
        ),
        images,
        divided=columns.split is not None,
    )


def _without_comments(path: Path, rows: Sequence[Row], width: int) -> tuple[list[Row], int]:
    """Return the rows of ``width`` fields, and the number of comment rows."""
    kept, comments = [], 0
    for row in rows:
        fields = row.fields
        if not any(fields[width:]) and len(fields) >= width:
            kept.append(replace(row, fields=fields[:width]))
        elif fields[0].startswith("#"):
            comments += 1
        else:
            raise InputError(
                f"{path}: line {row.line}: {len(fields)} fields, but the first row has {width}"
            )
    return kept, comments


def _listed(
    path: Path, row: Row, classes: tuple[str, ...], columns: Columns, group: int | None
) -> Listed:
    where = f"{path}: line {row.line}"
    image = row.fields[columns.path]
    if not image:
        raise InputError(f"{where}: the path is empty")
    split = "all"
    if columns.split is not None:
        text = row.fields[columns.split]
        split = split_at(text, columns.flag) or one_of(text, SPLITS, f"{where}: split")
    together = "" if group is None else row.fields[group].strip()
    return Listed(line=row.line, path=image, split=split, classes=classes, group=together)


def _read_labels(
    rows: Sequence[Row], columns: Columns, path: Path, remarks: list[str]
) -> tuple[list[tuple[str, ...]], bool]:
    """Return each row's classes, empty where the label is missing; and whether multi-label."""
    if columns.label is None:
        return _from_one_hot(rows, columns, remarks)
    given = [row.fields[columns.label] for row in rows]
    cells = _whole(["" if cell in _NO_LABEL else cell for cell in given], remarks)
    separator = _separator(cells, alone=not columns.several)
    classes: list[tuple[str, ...]]
    if columns.several:
        classes = [_divide(cell, separator) for cell in cells]
        if separator not in (None, _SEPARATOR):
            sign = "a comma" if separator == "," else "spaces"
            remarks.append(f"labels are separated by {sign}")
        elif separator is None and any("," in cell for cell in cells):
            remarks.append("commas are part of the labels' names")
    else:
        _check_alone(rows, cells, separator, path)
        classes = [(cell,) if cell else () for cell in cells]
    for row, there in zip(rows, classes, strict=True):
        where = f"{path}: line {row.line}"
        for label in there:
            if not label:
                raise InputError(
                    f"{where}: the label of {shown(row.fields[columns.path])} is missing"
                )
            check_label(label, where)
            if _BRACKETED.match(label):
                raise InputError(
                    f"{where}: label {shown(label)} is a Python list; write several labels as "
                    "cat;dog in a column 'labels'"
                )
    first: dict[str, str] = {}
    for label in sorted({label for there in classes for label in there}):
        other = first.setdefault(label.casefold(), label)
        if other != label:
            remarks.append(f"classes {other!r} and {label!r} differ in their case only")
            break
    return classes, columns.any_number or (columns.several and separator is not None)


def _from_one_hot(
    rows: Sequence[Row], columns: Columns, remarks: list[str]
) -> tuple[list[tuple[str, ...]], bool]:
    classes = [
        tuple(name for index, name in columns.classes.items() if is_one(row.fields[index]))
        for row in rows
    ]
    multi_label = any(len(there) != 1 for there in classes)
    used = {label for there in classes for label in there}
    unused = [name for name in columns.classes.values() if name not in used]
    remarks.append(
        "an image may have any number of them"
        if multi_label
        else "each image has exactly one of them"
    )
    if unused:
        remarks.append(f"no image has {', '.join(unused[:5])}{', ...' * (len(unused) > 5)}")
    return classes, multi_label


def _whole(cells: list[str], remarks: list[str]) -> list[str]:
    """Return whole numbers without the ``.0`` that pandas appends if some row has no number."""
    if not all(map(_WHOLE.fullmatch, filter(None, cells))) or not any("." in c for c in cells):
        return cells
    remarks.append("labels such as '1.0' are read as '1'")
    return [cell.partition(".")[0] for cell in cells]


def _separator(cells: Sequence[str], *, alone: bool) -> str | None:
    """Return the pattern that separates the labels in ``cells``; ``None`` if nothing does.

    A comma or space may be part of a name: it separates only if the parts recur in other cells.
    """
    if any(re.search(_SEPARATOR, cell) for cell in cells):
        return _SEPARATOR
    distinct = set(cells) - {""}
    for sign in (",",) if alone else (",", r"\s+"):
        if any(re.search(sign, cell) for cell in distinct):
            parts = {part for cell in distinct for part in _divide(cell, sign)}
            if len(parts) < len(distinct):
                return sign
    return None


def _divide(cell: str, separator: str | None) -> tuple[str, ...]:
    if not cell:
        return ()
    parts = [cell] if separator is None else [part.strip() for part in re.split(separator, cell)]
    return tuple(parts if parts[-1] or len(parts) == 1 else parts[:-1])


def _check_alone(
    rows: Sequence[Row], cells: Sequence[str], separator: str | None, path: Path
) -> None:
    """Raise `InputError` where a single-label column holds several labels, or measurements."""
    for row, cell in zip(rows, cells, strict=True):
        if separator is not None and re.search(separator, cell):
            raise InputError(
                f"{path}: line {row.line}: label {shown(cell)}: several labels need a column "
                "'labels', and a single label has no separators"
            )
    there = [cell for cell in cells if cell]
    if len(there) < _MANY:
        return
    first = f"{path}: line {rows[0].line}: label {shown(cells[0])}"
    if len(set(there)) == len(there):
        raise InputError(f"{first}: every row has a different label, as if the rows were numbered")
    fractions = all(map(_NUMBER.fullmatch, there)) and not all(map(_WHOLE.fullmatch, there))
    if fractions and len(set(there)) * 2 > len(there):
        raise InputError(
            f"{first}: most labels are different numbers, which are measurements, not classes"
        )


def _labelled(path: Path, listed: Sequence[Listed], remarks: list[str]) -> list[Listed]:
    """Return the labelled images; only some of ``test`` may have no label."""
    without = [row for row in listed if not row.classes]
    for row in without:
        if row.split != "test":
            raise InputError(
                f"{path}: line {row.line}: the label of {row.path!r} is missing (empty, or nan)"
            )
    if without:
        remarks.append(f"{len(without):,} images of test have no label and are left out")
    return [row for row in listed if row.classes]


def _once(
    path: Path, listed: Sequence[Listed], files: Sequence[tuple[str, Path]], remarks: list[str]
) -> list[tuple[Listed, str, Path]]:
    """Return each image once; raise `InputError` where two rows contradict each other."""
    first: dict[str, Listed] = {}
    once = []
    for row, (name, file) in zip(listed, files, strict=True):
        other = first.setdefault(name, row)
        if other is row:
            once.append((row, name, file))
        elif (other.classes, other.split) != (row.classes, row.split):
            raise InputError(
                f"{path}: line {row.line}: {row.path!r} is already in line {other.line}; put "
                "all labels of an image in one row, in a column 'labels'"
            )
    if len(once) < len(listed):
        remarks.append(f"{len(listed) - len(once):,} rows repeat an earlier one")
    return once


def _as_set(
    path: Path, empty: ImageSet, images: Sequence[tuple[Listed, str, Path]], *, divided: bool
) -> ImageSet:
    by = "train" if divided else "all"
    if not any(row.split == by for row, *_ in images):
        raise InputError(f"{path}: no row {'has the split train' if images else 'has an image'}")
    classes = sorted({label for row, *_ in images if row.split == by for label in row.classes})
    index = {label: number for number, label in enumerate(classes)}
    found: dict[str, list[LabelledImage]] = {}
    for row, name, file in images:
        for label in row.classes:
            if label not in index:
                raise InputError(
                    f"{path}: line {row.line}: class {label!r} is in {row.split} but not in "
                    f"train{nearest(label, classes)}"
                )
        indices = tuple(sorted({index[label] for label in row.classes}))
        label_or_labels = indices if empty.multi_label else indices[0]
        image = LabelledImage(name=name, label=label_or_labels, content=file, group=row.group)
        found.setdefault(row.split, []).append(image)
    return check_set(replace(empty, classes=tuple(classes), splits=by_split(found)))

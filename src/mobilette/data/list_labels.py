"""What stands in a list's column of labels: one class an image, or several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mobilette.data.list_columns import Columns, check_label, is_one
from mobilette.data.list_table import Row
from mobilette.errors import InputError, shown

_WHOLE, _NUMBER = re.compile(r"(-?\d+)(?:\.0*)?"), re.compile(r"-?\d*\.?\d+(?:[eE][-+]?\d+)?")
_SEVERAL, _BRACKETED = re.compile("[;|]"), re.compile(r"\[\s*['\"]")
_NO_LABEL = ("nan", "NaN", "<NA>")  # an empty cell, as pandas writes it
# In as many rows, labels that are all different are no classes.
_MANY = 10


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The classes of each row.

    Attributes:
        classes: of each row; empty where its label is missing.
        multi_label: whether an image may be of none or of several classes.
        remarks: how the labels were understood, where that is not plain.
    """

    classes: list[tuple[str, ...]]
    multi_label: bool
    remarks: tuple[str, ...] = ()


def read_labels(rows: Sequence[Row], columns: Columns, where: str) -> Labels:
    """Return the classes of ``rows``.

    Raises:
        InputError: beginning with ``where`` and the line: a label cannot be one.
    """
    if columns.label is None:
        return _from_one_hot(rows, columns)
    given = (row.fields[columns.label] for row in rows)
    cells, remarks = _whole(["" if cell in _NO_LABEL else cell for cell in given])
    sign = _separator(cells, alone=columns.holds == "one")
    multi_label = columns.holds == "any number" or (columns.holds != "one" and sign is not None)
    classes: list[tuple[str, ...]]
    if columns.holds == "one":
        _check_alone(rows, cells, sign, where)
        classes = [(cell,) if cell else () for cell in cells]
    else:
        classes = [_divide(cell, sign) for cell in cells]
        if sign not in (None, _SEVERAL.pattern):
            remarks.append(f"labels are separated by {'a comma' if sign == ',' else 'spaces'}")
        elif sign is None and any("," in cell for cell in cells):
            remarks.append("commas are part of the labels' names")
    for row, there in zip(rows, classes, strict=True):
        for label in there:
            if not label:
                image = shown(row.fields[columns.path])
                raise InputError(f"{where}: line {row.line}: the label of {image} is missing")
            check_label(label, f"{where}: line {row.line}")
            if _BRACKETED.match(label):
                raise InputError(
                    f"{where}: line {row.line}: label {shown(label)} is a program's list; write "
                    "several labels as cat;dog in a column 'labels'"
                )
    remarks += _alike({label for there in classes for label in there})
    return Labels(classes=classes, multi_label=multi_label, remarks=tuple(remarks))


def _from_one_hot(rows: Sequence[Row], columns: Columns) -> Labels:
    classes = [
        tuple(name for index, name in columns.classes.items() if is_one(row.fields[index]))
        for row in rows
    ]
    multi_label = any(len(there) != 1 for there in classes)
    used = {label for there in classes for label in there}
    unused = [name for name in columns.classes.values() if name not in used]
    remarks = ["each image is of one of them" if not multi_label else "an image is of any number"]
    if unused:
        remarks.append(f"no image is of {', '.join(unused[:5])}{', ...' * (len(unused) > 5)}")
    return Labels(classes=classes, multi_label=multi_label, remarks=tuple(remarks))


def _whole(cells: list[str]) -> tuple[list[str], list[str]]:
    """Return whole numbers without ``.0``, which pandas appends where some row has no number."""
    numbers = [_WHOLE.fullmatch(cell) for cell in cells if cell]
    if not all(numbers) or not any("." in cell for cell in cells):
        return cells, []
    return [cell.partition(".")[0] for cell in cells], ["labels such as '1.0' are called '1'"]


def _separator(cells: Sequence[str], *, alone: bool) -> str | None:
    """Return the pattern of what separates the labels in ``cells``; ``None`` if nothing does.

    A comma or a space may be part of a name: it separates where the parts come again in others.
    """
    if any(_SEVERAL.search(cell) for cell in cells):
        return _SEVERAL.pattern
    distinct = set(cells) - {""}
    for sign in (",",) if alone else (",", r"\s+"):
        if any(re.search(sign, cell) for cell in distinct):
            parts = {part for cell in distinct for part in _divide(cell, sign)}
            if len(parts) < len(distinct):
                return sign
    return None


def _divide(cell: str, sign: str | None) -> tuple[str, ...]:
    if not cell:
        return ()
    parts = [cell] if sign is None else [part.strip() for part in re.split(sign, cell)]
    return tuple(parts if parts[-1] or len(parts) == 1 else parts[:-1])


def _check_alone(rows: Sequence[Row], cells: Sequence[str], sign: str | None, where: str) -> None:
    """Raise `InputError` where the column of one label an image has several, or measurements."""
    for row, cell in zip(rows, cells, strict=True):
        if sign is not None and re.search(sign, cell):
            raise InputError(
                f"{where}: line {row.line}: label {shown(cell)}: several labels stand in a column "
                "'labels', and one has no such signs"
            )
    there = [cell for cell in cells if cell]
    if len(there) < _MANY:
        return
    first = f"{where}: line {rows[0].line}: label {shown(cells[0])}"
    if len(set(there)) == len(there):
        raise InputError(f"{first}: every row has a label of its own, as if they were numbered")
    fractions = all(map(_NUMBER.fullmatch, there)) and not all(map(_WHOLE.fullmatch, there))
    if fractions and len(set(there)) * 2 > len(there):
        raise InputError(
            f"{first}: most labels are numbers of their own, which are measurements and no classes"
        )


def _alike(labels: set[str]) -> list[str]:
    first: dict[str, str] = {}
    for label in sorted(labels):
        other = first.setdefault(label.casefold(), label)
        if other != label:
            return [f"classes {other!r} and {label!r} differ in their case only"]
    return []

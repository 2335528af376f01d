"""What the columns of a list mean, by their names and contents."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mobilette.data.list_table import Row
from mobilette.data.names import has_image_name, split_of
from mobilette.errors import InputError, nearest, shown


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PATHS = _words(
    "filepath filepaths filename filenames file files fname image images imagepath imagefile "
    "imagefilename imagename imageindex img imgpath imgfile imgname picture pictures photo "
    "relativepath pathname"
)
_IDS = _words("id imageid imgid pictureid photoid fileid name uuid url imageurl imgurl uri")
_LABELS = _words(
    "class category target classname labelname categoryname classid classlabel labelid categoryid "
    "species breed y tag diagnosis"
)
_SEVERAL = re.compile("labels$|tags$|^classes$|^categories$|^targets$")
_SPLITS = _words("splits subset set partition usage phase dataset datasplit")
# As fastai writes them: true means this split, false train.
_FLAGS = {"isvalid": "val", "isval": "val", "isvalidation": "val", "istest": "test"}
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_FOLD = re.compile(r"(?:k|cv)?folds?\d*(?:id|index)?")  # of cross-validation
_ROW_NUMBER = re.compile(r"(?:unnamed\d*)?|index")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column is which, counted from 0.

    Attributes:
        path: the image's path.
        label: its class or classes; ``None`` if each of ``classes`` has a column.
        several: whether ``label`` may contain several classes.
        any_number: whether the list is multi-label whatever ``label`` contains.
        split: its split, if there is such a column.
        flag: the split meant by true, if ``split`` contains true and false.
        classes: the columns of 0 and 1, with their classes.
        remark: how columns were understood if their names do not say it.
    """

    path: int
    label: int | None
    several: bool = False
    any_number: bool = False
    split: int | None = None
    flag: str | None = None
    classes: Mapping[int, str] = field(default_factory=dict)
    remark: str = ""


def is_header(fields: Sequence[str]) -> bool:
    """Whether ``fields`` names the columns of a list."""
    names = {_plain(name) for name in fields}
    return len(fields) > 1 and not names.isdisjoint({"path"} | _PATHS | _IDS)


def is_row(fields: Sequence[str]) -> bool:
    """Whether ``fields`` is a row of a list without a header: an image, a label, maybe a split."""
    images = sum(map(has_image_name, fields))
    return images == 1 and (len(fields) == 2 or (len(fields) == 3 and any(map(split_of, fields))))


def without_header(first: Sequence[str]) -> Columns:
    """Return the columns of a list without a header, from its first row."""
    path = next(index for index, name in enumerate(first) if has_image_name(name))
    others = [index for index in range(len(first)) if index != path]
    split = next((index for index in others if len(others) > 1 and split_of(first[index])), None)
    label = next(index for index in others if index != split)
    said = [f"column {path + 1} is the path", f"column {label + 1} the label"]
    said += [] if split is None else [f"column {split + 1} the split"]
    return Columns(path=path, label=label, split=split, remark=f"no header: {', '.join(said)}")


def find_columns(header: Sequence[str], rows: Sequence[Row], where: str) -> Columns:
    """Return the meaning of the columns named ``header``; all ``rows`` have as many fields.

    Raises:
        InputError: beginning with ``where``: no column, or more than one, for paths or labels.
    """
    plain = [_plain(name) for name in header]

    def pick(what: str, *choices: Collection[str]) -> int | None:
        """Return the one column named in the first of ``choices`` that matches any."""
        for names in choices:
            found = [index for index, name in enumerate(plain) if name in names]
            if len(found) > 1 and plain[found[0]] == plain[found[1]]:
                raise InputError(f"{where}: column {header[found[0]]!r} occurs twice")
            if len(found) > 1:
                raise InputError(
                    f"{where}: columns {header[found[0]]!r} and {header[found[1]]!r} may both be "
                    f"the {what}; name one of them {what!r}"
                )
            if found:
                return found[0]
        return None

    path = pick("path", ("path",), _PATHS, _IDS)
    if path is None:
        raise _missing("'path'", header, where, ["path"])
    label = pick("label", ("label", "labels"), _LABELS)
    if label is None:
        label = pick("labels", [name for name in plain if _SEVERAL.search(name)])
    left = [
        index
        for index, name in enumerate(plain)
        if index not in (path, label) and not _ROW_NUMBER.fullmatch(name)
    ]
    split = pick("split", ("split",))
    if split is None:
        split = _find_split(plain, left, rows, alone=label is None)
    folds = [index for index in left if index != split and _FOLD.fullmatch(plain[index])]
    left = [index for index in left if index not in (split, *folds)]
    classes: dict[int, str] = {}
    if label is None and len(left) == 1:
        label = left[0]
    if label is None:
        classes = _one_hot(header, left, rows, where)
    said = [
        f"column {header[index]!r} is the {what}"
        for what, index in (("path", path), ("label", label), ("split", split))
        if index is not None and plain[index] not in (what, f"{what}s")
    ]
    if classes:
        said.append(f"{len(classes)} columns of 0 and 1 are the classes")
    said += [
        f"column {header[index]!r} is ignored; use a column 'split' with 'train' and 'val'"
        for index in folds
    ]
    return Columns(
        path=path,
        label=label,
        several=label is not None and _SEVERAL.search(plain[label]) is not None,
        any_number=label is not None and plain[label] == "labels",
        split=split,
        flag=None if split is None else _FLAGS.get(plain[split]),
        classes=classes,
        remark=", ".join(said),
    )


def split_at(text: str, flag: str | None) -> str | None:
    """Return the split that ``text`` means in a column of splits, or of true and false."""
    if flag is None:
        return split_of(text)
    true = is_one(text)
    return None if true is None else flag if true else "train"


def is_one(text: str) -> bool | None:
    """Whether ``text`` stands for 1 or 0; ``None`` for neither."""
    return True if text.lower() in _YES else False if text.lower() in _NO else None


def check_label(label: str, where: str) -> None:
    """Raise `InputError`, beginning with ``where``, if ``label`` does not fit on a line."""
    if any(mark in label for mark in "\t\n\r"):
        raise InputError(f"{where}: label {label!r:.60} contains a tab or a line break")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _find_split(
    plain: Sequence[str], left: Sequence[int], rows: Sequence[Row], *, alone: bool
) -> int | None:
    """Return the split column by its name, else the only one that holds nothing but split names.

    With ``alone`` there is no label column yet, so one column must be left for it.
    """
    for index in left:
        if plain[index] in _FLAGS and all(split_at(row.fields[index], "val") for row in rows):
            return index
    for index in left:  # a misspelt column would silently divide nothing
        named = plain[index] in _SPLITS or nearest(plain[index], ["split"])
        if named and any(split_of(row.fields[index]) for row in rows):
            return index
    if len(left) < (2 if alone else 1) or not rows:
        return None
    splits = {index: {split_of(row.fields[index]) for row in rows} for index in left}
    found = [index for index, there in splits.items() if None not in there and "train" in there]
    return found[0] if len(found) == 1 else None


def _one_hot(
    header: Sequence[str], left: Sequence[int], rows: Sequence[Row], where: str
) -> dict[int, str]:
    """Return the columns of 0 and 1 and their classes.

    Raises `InputError` for any other value or a repeated name.
    """
    if (
        len(left) < 2
        or not rows
        or not any(is_one(rows[0].fields[index]) is not None for index in left)
    ):
        meant = ["label", "labels"]
        raise _missing("'label' (or 'labels', separated by ';')", header, where, meant)
    for row in rows:
        for index in left:
            if is_one(row.fields[index]) is None:
                raise InputError(
                    f"{where}: no column is called 'label', and the columns do not contain only 0 "
                    f"and 1: {header[index]!r} is {shown(row.fields[index])} in line {row.line}"
                )
    names = [header[index] for index in left]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}: column {name!r} occurs twice")
        check_label(name, where)
    return dict(zip(left, names, strict=True))


def _missing(what: str, header: Sequence[str], where: str, meant: Sequence[str]) -> InputError:
    listed = ", ".join(map(repr, header)) or "none"
    near = next((name for name in header if nearest(_plain(name), meant)), None)
    hint = f"; did you mean {near!r}?" if near else ""
    return InputError(f"{where}: column {what} is missing; the columns are {listed:.200}{hint}")

"""What an audit found, as a table that users fill in, and a set without what they left out."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from mobilette.data.formats import UnusableImage
from mobilette.data.images import Accepted, ImageSet, LabelledImage, indices_of
from mobilette.data.list_table import Row, read_table
from mobilette.errors import InputError, nearest, one_of, shown
from mobilette.files import guarded, unguarded
from mobilette.records import parse

What = Literal[
    "unreadable",
    "exact duplicate",
    "near duplicate",
    "wrong label",
    "dark",
    "bright",
    "little information",
    "blurred",
    "odd shape",
    "odd size",
]
KINDS: tuple[str, ...] = get_args(What)
LEAVE_OUT, RELABEL = "leave out", "relabel"
WITHOUT = "without"  # key of dataset.json

_COLUMNS = ("path", "split", "class", "what", "sure", "other", "suggestion", "detail", "digest")
_ACCEPT = "accept"
_NEEDED = ("path", "suggestion", "digest", _ACCEPT)
# What makes a spreadsheet take text for a formula; and the mark that we put before it.
_DIGITS = 16  # of a digest


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found about one image.

    Attributes:
        path: the image's name in the set.
        split: where it is.
        label: its class; several are separated by ``;``.
        what: one of `KINDS`.
        sure: 0 to 1.
        other: the image of which it is a duplicate.
        suggestion: the class it seems to have.
        detail: what was measured.
        digest: identifies the content of its file (`digest_of`).
    """

    path: str
    split: str
    label: str
    what: What
    sure: float
    other: str = ""
    suggestion: str = ""
    detail: str = ""
    digest: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the finding with the names of its columns."""
        values = (self.path, self.split, self.label, self.what, round(self.sure, 4))
        rest = (self.other, self.suggestion, self.detail, self.digest)
        return dict(zip(_COLUMNS, (*values, *rest), strict=True))


def digest_of(image: LabelledImage) -> str:
    """Return the first 16 digits of the SHA-256 of an image's file, or of its pixels in memory.

    It is empty where the file cannot be read.
    """
    try:
        content = image.read() if not image.in_memory else image.open().tobytes()
    except UnusableImage:
        return ""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def findings_csv(findings: Iterable[Finding]) -> str:
    """Return the table of ``audit.csv``: a row per finding, and an empty column ``accept``.

    Cells that a spreadsheet would take for formulas begin with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, _ACCEPT))
    for finding in findings:
        writer.writerow([*(guarded(str(cell)) for cell in finding.to_json().values()), ""])
    return text.getvalue()


def without_accepted(images: ImageSet, path: Path) -> ImageSet:
    """Return the set as its user has accepted in the ``audit.csv`` at ``path``.

    Raises:
        InputError: as for `read_accepted` and `apply_accepted`, or nothing is accepted.
    """
    accepted = read_accepted(path, images.classes)
    if not accepted:
        raise InputError(
            f"{path}: nothing is accepted; write {LEAVE_OUT!r}, {RELABEL!r} or a class into the "
            f"column {_ACCEPT!r}"
        )
    said = (
        f"{path}: {len(accepted.leave_out):,} images left out, {len(accepted.relabel):,} relabelled"
    )
    changed = apply_accepted(images, accepted, where=str(path))
    return replace(changed, remarks=(*changed.remarks, said))


def recorded_changes(images: ImageSet) -> dict[str, object]:
    """Return what ``dataset.json`` records of an audit that was applied to the set."""
    return {WITHOUT: asdict(images.accepted)} if images.accepted else {}


def changed_as_recorded(
    images: ImageSet, recorded: Mapping[str, object], *, where: Path
) -> ImageSet:
    """Return the set changed as the ``dataset.json`` at ``where`` has ``recorded`` it.

    Raises:
        InputError: as for `apply_accepted`, or the record is damaged.
    """
    if WITHOUT not in recorded:
        return images
    accepted = parse(Accepted, recorded[WITHOUT], where=f"{where}: {WITHOUT}")
    return apply_accepted(images, accepted, where=str(where))


def read_accepted(path: Path, classes: Sequence[str]) -> Accepted:
    """Return what the user wrote into the column ``accept`` of an ``audit.csv``.

    A cell is empty, ``leave out``, ``relabel`` (as the row suggests) or a class. The text may have
    any encoding and separator that lists may have (`read_table`).

    Raises:
        InputError: naming the line: no audit's table, another word, an unknown class, or two
            answers for one image.
    """
    rows = read_table(path, lambda fields: all(name in fields for name in _NEEDED))
    header = rows[0].fields if rows else []
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r}; expected the audit.csv of 'mobilette audit'"
        )
    leave_out: dict[str, str] = {}
    relabel: dict[str, tuple[str, str]] = {}
    answers: dict[str, str] = {}
    for row in rows[1:]:
        cells = dict(zip(header, map(unguarded, row.fields), strict=False))
        answer = _answer(path, row, cells, classes)
        if not answer:
            continue
        name = cells["path"]
        if answers.setdefault(name, answer) != answer:
            raise InputError(
                f"{path}: line {row.line}: {shown(name)} gets {shown(answer)} here and "
                f"{shown(answers[name])} above; accept one of them"
            )
        if answer == LEAVE_OUT:
            leave_out[name] = cells["digest"]
        else:
            relabel[name] = (cells["digest"], answer)
    return Accepted(leave_out=leave_out, relabel=relabel)


def apply_accepted(images: ImageSet, accepted: Accepted, *, where: str) -> ImageSet:
    """Return the set without the images left out, and with the classes accepted for others.

    ``where`` names the audit in messages.

    Raises:
        InputError: an image is not in the set, or its file is another one than that audited; or a
            class loses all of its images.
    """
    wanted = {**accepted.leave_out, **{name: pair[0] for name, pair in accepted.relabel.items()}}
    there = {image.name: image for some in images.splits.values() for image in some}
    for name, digest in wanted.items():
        if name not in there:
            raise InputError(
                f"{where}: {shown(name)} is not in {images.name}; is it the audit of another set?"
                f"{nearest(name, there)}"
            )
        if digest_of(there[name]) != digest:
            raise InputError(
                f"{where}: {shown(name)} has changed since the audit, or is of another set; audit "
                f"{images.name} again"
            )
    index = {name: number for number, name in enumerate(images.classes)}
    changed = {name: index[label] for name, (_, label) in accepted.relabel.items()}
    splits = {
        split: tuple(
            replace(image, label=_as_label(changed[image.name], image))
            if image.name in changed
            else image
            for image in some
            if image.name not in accepted.leave_out
        )
        for split, some in images.splits.items()
    }
    left = {at for some in splits.values() for image in some for at in indices_of(image.label)}
    before = {
        at for some in images.splits.values() for image in some for at in indices_of(image.label)
    }
    if lost := sorted(before - left):
        raise InputError(f"{where}: leaves no image of the class {shown(images.classes[lost[0]])}")
    return replace(images, splits=splits, accepted=accepted)


def _as_label(label: int, image: LabelledImage) -> int | tuple[int, ...]:
    return (label,) if isinstance(image.label, tuple) else label


def _answer(path: Path, row: Row, cells: Mapping[str, str], classes: Sequence[str]) -> str:
    """Return `LEAVE_OUT`, a class, or nothing."""
    said = cells.get(_ACCEPT, "").strip()
    where = f"{path}: line {row.line}: accept"
    if not said or said in classes:
        return said
    word = " ".join(said.lower().replace("_", " ").replace("-", " ").split())
    if word == LEAVE_OUT:
        return word
    if word == RELABEL:
        if not cells["suggestion"]:
            raise InputError(f"{where} {RELABEL!r}, but the row suggests no class; write the class")
        return one_of(cells["suggestion"], classes, f"{where}: class")
    return one_of(said, (LEAVE_OUT, RELABEL, *classes), where)

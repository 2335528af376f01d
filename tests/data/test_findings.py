"""The table of an audit: written, filled in, read back and applied to a set."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.data.findings import (
    Finding,
    apply_accepted,
    digest_of,
    findings_csv,
    read_accepted,
    without_accepted,
)
from mobilette.data.images import Accepted, ImageSet, LabelledImage
from mobilette.data.sources import find_images
from mobilette.errors import InputError
from tests.conftest import write_images

CLASSES = ("blue", "green", "red")
FOUND = Finding(
    path="blue/0.png",
    split="all",
    label="blue",
    what="wrong label",
    sure=0.75,
    suggestion="red",
    digest="0123456789abcdef",
)


def filled(folder: Path, findings: list[Finding], answers: list[str], *, sign: str = ",") -> Path:
    """Write an audit.csv whose column ``accept`` has these answers, as a spreadsheet saves it."""
    rows = list(csv.reader(io.StringIO(findings_csv(findings))))
    for row, answer in zip(rows[1:], answers, strict=True):
        row[-1] = answer
    path = folder / "audit.csv"
    with path.open("w", encoding="utf-8-sig" if sign == ";" else "utf-8", newline="") as file:
        csv.writer(file, delimiter=sign).writerows(rows)
    return path


@pytest.fixture
def small(tmp_path: Path) -> ImageSet:
    return find_images(write_images(tmp_path / "set", 4, size=8))


def by_name(images: ImageSet) -> dict[str, LabelledImage]:
    return {image.name: image for some in images.splits.values() for image in some}


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", Accepted()),
        ("leave out", Accepted(leave_out={"blue/0.png": FOUND.digest})),
        ("Leave-Out ", Accepted(leave_out={"blue/0.png": FOUND.digest})),
        ("RELABEL", Accepted(relabel={"blue/0.png": (FOUND.digest, "red")})),
        ("green", Accepted(relabel={"blue/0.png": (FOUND.digest, "green")})),
    ],
)
def test_answers_are_read(answer: str, expected: Accepted, sign: str, tmp_path: Path) -> None:
    assert read_accepted(filled(tmp_path, [FOUND], [answer], sign=sign), CLASSES) == expected


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["gren"], "line 2: accept 'gren' is not one of .*; did you mean 'green'"),
        (["leave ot"], "did you mean 'leave out'"),
        (["leave out", "red"], "line 3: 'blue/0.png' gets 'red' here and 'leave out' above"),
    ],
)
def test_other_answers_are_refused(answers: list[str], message: str, tmp_path: Path) -> None:
    path = filled(tmp_path, [FOUND] * len(answers), answers)
    with pytest.raises(InputError, match=message):
        read_accepted(path, CLASSES)


def test_relabel_needs_a_suggestion(tmp_path: Path) -> None:
    path = filled(tmp_path, [replace(FOUND, suggestion="")], ["relabel"])
    with pytest.raises(InputError, match="the row suggests no class; write the class"):
        read_accepted(path, CLASSES)


@pytest.mark.parametrize("text", ["", "path,label\na.png,cat\n", "hello"])
def test_other_tables_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "audit.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"audit\.csv: no column .*; expected the audit\.csv of"):
        read_accepted(tmp_path / "audit.csv", CLASSES)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1),
)
def test_names_survive_and_are_no_formulas(name: str) -> None:
    for path in (name, f"={name}", f"+{name}", f"-{name}", f"@{name}", f"'{name}"):
        text = findings_csv([replace(FOUND, path=path)])
        cell = list(csv.reader(io.StringIO(text)))[1][0]
        assert cell[0] not in "=+-@\t\r"
        assert cell.removeprefix("'") == path


def test_what_was_accepted_is_applied(small: ImageSet) -> None:
    there = by_name(small)
    accepted = Accepted(
        leave_out={"blue/0.png": digest_of(there["blue/0.png"])},
        relabel={"green/1.png": (digest_of(there["green/1.png"]), "red")},
    )
    changed = by_name(apply_accepted(small, accepted, where="audit.csv"))
    assert set(there) - set(changed) == {"blue/0.png"}
    assert {name for name in changed if changed[name].label != there[name].label} == {"green/1.png"}
    assert changed["green/1.png"].label == small.classes.index("red")


def test_the_audit_of_another_set_is_refused(small: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="'blue/9.png' is not in .*set; is it the audit of another"
    ):
        apply_accepted(small, Accepted(leave_out={"blue/9.png": "0" * 16}), where="audit.csv")
    with pytest.raises(InputError, match="'blue/0.png' has changed since the audit, or is of"):
        apply_accepted(small, Accepted(leave_out={"blue/0.png": "0" * 16}), where="audit.csv")


def test_no_class_may_vanish(small: ImageSet) -> None:
    blue = {name: digest_of(image) for name, image in by_name(small).items() if "blue" in name}
    with pytest.raises(InputError, match="leaves no image of the class 'blue'"):
        apply_accepted(small, Accepted(leave_out=blue), where="audit.csv")


def test_an_audit_without_answers_is_refused(small: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is accepted; write 'leave out', 'relabel' or a"):
        without_accepted(small, filled(tmp_path, [FOUND], [""]))

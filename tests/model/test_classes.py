from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel, classes_text, parse_classes, read_classes

_text = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"), min_size=1).filter(
    lambda text: text.strip() != ""
)


@given(st.lists(st.builds(ClassLabel, id=_text, name=_text), min_size=1, unique_by=lambda c: c.id))
def test_text_round_trip(labels: list[ClassLabel]) -> None:
    assert parse_classes(classes_text(labels), where="x") == tuple(labels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no class in it"),
        ("cat\n\ndog\n", "line 2 is empty"),
        ("cat\ndog\ncat\n", "class id 'cat' occurs twice"),
        ("cat\na\tb\tc\n", "line 2: class 'b.*without tabs"),
    ],
)
def test_faults(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"classes.txt: {message}"):
        parse_classes(text, where="classes.txt")


@pytest.mark.parametrize("text", ["", " ", "a\tb", "a\nb"])
def test_names_that_a_line_cannot_hold(text: str) -> None:
    with pytest.raises(InputError, match="without tabs and line breaks"):
        ClassLabel(id=text, name="x")


def test_a_line_without_a_tab_is_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("n01440764\ttench\n狗\n", encoding="utf-8")
    assert read_classes(path) == (
        ClassLabel(id="n01440764", name="tench"),
        ClassLabel(id="狗", name="狗"),
    )
    path.write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")  # as Windows' Notepad writes it
    assert [label.id for label in read_classes(path)] == ["cat", "dog"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_classes(path)

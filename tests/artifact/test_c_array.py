from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.artifact.c_array import literal, model_in_source, model_source
from mobilette.errors import InputError


@given(st.binary(max_size=100), st.lists(st.text(max_size=10), max_size=3))
def test_a_model_reads_back(model: bytes, labels: list[str]) -> None:
    assert model_in_source(model_source(model, labels)) == model


@given(st.text())
def test_a_literal_is_plain_ascii_and_stands_for_its_text(text: str) -> None:
    code = literal(text)
    assert code.isascii()
    assert code.isprintable()
    assert "??" not in code
    inside = code[1:-1].encode()
    octal = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), inside)
    assert octal.decode() == text
    assert b'"' not in inside


@pytest.mark.parametrize(
    "change",
    [
        lambda source: source.replace("g_model[]", "model[]"),
        lambda source: source.replace("0x01,", "0x01, kMore,"),
        lambda source: source.replace("0x01,", "0x101,"),
        lambda source: source.partition("};")[0],
    ],
)
def test_anything_but_bytes_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(InputError, match="no array g_model of bytes"):
        model_in_source(change(model_source(b"\0\1\2", ["a"])))

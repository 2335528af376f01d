from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mobilette.artifact.cpp import literal


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

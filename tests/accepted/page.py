"""docs/accepted.md as data: each section's table, and the check of one row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilette.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "accepted.md"

Case = Callable[[Path], None]
"""Meets one row in an empty folder: asserts what comes of it, or lets the `InputError` out."""


def rows(section: str) -> dict[str, str]:
    """Return the table of a section: its first column, and the answer in its second."""
    text = PAGE.read_text(encoding="utf-8")
    part = re.split(r"^## ", text.split(f"\n## {section}\n", 1)[1], flags=re.MULTILINE)[0]
    table = [line.strip("| \n").split(" | ") for line in part.splitlines() if line[:2] == "| "]
    return {given: answer for given, answer in table[1:]}


def check(answer: str, case: Case, folder: Path) -> None:
    """Run a row's case and compare what happened with the row's answer."""
    if not answer.startswith("refused"):
        case(folder)
        return
    with pytest.raises(InputError) as caught:
        case(folder)
    for words in re.findall(r"`([^`]+)`", answer):
        assert words in str(caught.value)

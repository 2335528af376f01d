"""docs/shifts.md has the strengths that are applied."""

from __future__ import annotations

import re

from mobilette.data.shifts import SHIFTS
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "shifts.md").read_text(encoding="utf-8")


def test_the_table_of_shifts() -> None:
    rows = re.findall(r"^\| ([a-z ]+) \| .* \| ([\d., ]+?)(?: [a-z]+)? \|$", PAGE, re.M)
    assert dict(rows) == {
        name: ", ".join(f"{amount:g}" for amount in shift.amounts) for name, shift in SHIFTS.items()
    }

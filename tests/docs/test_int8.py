"""docs/int8.md is what its command makes of docs/int8.csv."""

from __future__ import annotations

from pathlib import Path

from docs.cells import read_cells, write_cells
from docs.make_int8 import PAGE, TABLE, Cell, page


def cell(**values: str) -> Cell:
    known = {"data": "set", "network": "v2", "target": "onnx", "weights": "a", "max_drop": "0.5"}
    return Cell(**known | values)


def test_the_page_is_what_the_table_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read_cells(TABLE, Cell))


def test_a_cell_says_what_was_lost_and_by_which_rung(tmp_path: Path) -> None:
    cells = [
        cell(
            images="10000",
            top1="0.85",
            plain="0.80",
            rung="2: equalised, biases corrected",
            int8="0.8475",
            kept="yes",
        ),
        cell(target="litert", reason="there is no such operator"),
    ]
    write_cells(tmp_path / "cells.csv", Cell, cells)
    assert read_cells(tmp_path / "cells.csv", Cell) == cells
    text = page(cells)
    assert "## set, 10,000 images" in text
    assert "| v2 | 85.00% | 0.5 | 84.75%, -0.25, rung 2 (plain -5.00) | refused [1] |" in text
    assert "1. there is no such operator" in text


def test_what_was_not_kept_is_said() -> None:
    lost = cell(
        images="100",
        top1="0.85",
        plain="0.80",
        rung="1: plain, mse",
        int8="0.81",
        kept="no",
    )
    assert "81.00%, -4.00, rung 1 (plain -5.00) **not kept**" in page([lost])

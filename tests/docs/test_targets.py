"""docs/targets.md is what its command makes of docs/targets.csv."""

from __future__ import annotations

from pathlib import Path

from docs.cells import read_cells, write_cells
from docs.make_targets import PAGE, TABLE, Cell, measure, page
from mobilette.run.directory import Run


def test_the_page_is_what_the_table_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read_cells(TABLE, Cell))


def test_cells_are_measured_once_and_a_refused_one_has_its_reason(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    cells = list(measure(trained.path, images, known={}, targets=["onnx"]))
    (fp32,) = (cell for cell in cells if cell.precision == "fp32")
    assert fp32.verdict == "passed"
    assert float(fp32.max_abs_diff) < 1e-3
    assert float(fp32.agreement) == 1
    assert fp32.images == "24"  # the others were trained on
    write_cells(tmp_path / "cells.csv", Cell, cells)
    assert read_cells(tmp_path / "cells.csv", Cell) == cells
    kept = {cell.key: cell for cell in cells}
    assert list(measure(trained.path, images, known=kept, targets=["onnx"])) == cells


def test_the_page_of_several_networks() -> None:
    good = Cell(
        network="v1",
        weights="a",
        data="set",
        target="onnx",
        precision="fp32",
        verdict="passed",
        max_abs_diff="1.5e-06",
        agreement="1",
        accuracy_source="0.5",
        images="20",
    )
    refused = Cell(
        network="v2",
        weights="a",
        data="set",
        target="mcu",
        precision="int8",
        verdict="refused",
        reason="hard-swish | is not there",
    )
    text = page([good, refused])
    assert "## set, 20 images" in text
    assert "|  | v1 | v2 |" in text
    assert "| the checkpoint's top-1 | 50.0% | not measured |" in text
    assert "| onnx fp32 | passed, 2e-06, 100.0% | not measured |" in text
    assert "| mcu int8 | not measured | refused [1] |" in text
    assert "1. hard-swish / is not there" in text

"""Published files reach what an independent implementation reached with them.

Here the cheap rows of bench/published_rows.py; all of them take its command, about three minutes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray

from bench import published_rows
from bench.published_rows import RESNET8, ROWS, VWW, Reached, Row, reach
from mobilette.data.dataset import load_split
from mobilette.data.reading import Reading
from mobilette.engines.load import load
from mobilette.verification.evaluate import labelled_images
from tests.formats.published_files import images, published

CHEAP = [
    row
    for row in ROWS
    if row.images in ("vww400", "cifar10-test200", "flowers200") and row.model != "resnet56"
]


@pytest.fixture(scope="module")
def reached(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reached]:
    return {
        row.file: reach(row, shared, tmp_path_factory.mktemp("rows") / "run")
        for row in CHEAP
        if published(row.file) and images(row.images)
    }


def of(file: str) -> Row:
    return next(row for row in CHEAP if row.file == file)


@pytest.mark.parametrize("row", CHEAP, ids=lambda row: row.file)
def test_the_stated_accuracy_is_reached(row: Row, reached: dict[str, Reached]) -> None:
    found = reached[row.file]
    assert found.is_close(row), (found.top1, row.top1)
    assert found.images == (400 if row.images == "vww400" else 200)
    assert found.model.origin.unused == ()


@pytest.mark.parametrize("name", [VWW, RESNET8])
def test_three_forms_of_one_network_answer_alike(name: str, reached: dict[str, Reached]) -> None:
    def logits(form: str) -> NDArray[np.float32]:
        predictor = load(reached[name + form].run)
        some = labelled_images(images(of(name + form).images), predictor.classes).images
        pixels, _ = load_split(
            some[::4],
            resolution=predictor.arch.resolution,
            preprocess=predictor.preprocess,
            reading=Reading(workers=1),
        )
        return predictor.logits(pixels.pixels[:])

    keras, exact, rounded = logits(".h5"), logits("_float.tflite"), logits("_int8.tflite")
    assert keras.std() > 0.1
    np.testing.assert_allclose(exact, keras, atol=1e-3)
    assert np.abs(rounded - keras).max() > 1e-3
    assert (rounded.argmax(1) == keras.argmax(1)).mean() >= 0.9


def test_a_row_that_is_missed_is_said_so(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = of(f"{RESNET8}.h5")
    monkeypatch.setattr(
        published_rows, "ROWS", (row, replace(row, top1=row.top1 + 1), replace(row, width_mult=0.5))
    )
    with pytest.raises(typer.Exit) as ended:
        published_rows.main(only="resnet8", shared=shared)
    assert ended.value.exit_code == 1
    _, _, reached, missed, *faults = capsys.readouterr().out.splitlines()
    assert "| +0.00 | reached |" in reached
    assert "| -1.00 | NOT REACHED |" in missed
    assert [fault.partition(": ")[0] for fault in faults] == [row.file] * 2
    assert "has width 1 of resnet8, not 0.5" in faults[1]


def test_the_rows_are_those_of_the_readme(shared: Path) -> None:
    """Every file has a row, with numbers that the README's line about it states."""
    folder = shared / "weights"
    files = {path.name for path in folder.iterdir() if path.name != "README.md"}
    assert {row.file for row in ROWS} == files
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    for row in ROWS:
        line = max(lines, key=lambda line: _common(row.file, re.findall(r"`([^`]+)`", line[0])))
        stated = line[5] if row.dequantised else line[4]
        numbers = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", stated)}
        assert {row.top1, row.top5} - {None} <= numbers, row
        assert row.images in line[3]
        if row.preprocess is not None:
            assert f"`{row.preprocess}`" in line[2] or "x/127.5" in line[2]


def _common(file: str, names: list[str]) -> int:
    """Return how many first letters ``file`` shares with the name that is most like it."""
    return max(
        len(list(takewhile(lambda pair: pair[0] == pair[1], zip(file, name, strict=False))))
        for name in names
    )

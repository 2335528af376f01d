"""Which classes got worse: a class that was planted, and counts by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.cells import cell_len
from scipy.stats import binomtest

import mobilette
from mobilette.cli.verdict import class_lines
from mobilette.model.classes import ClassLabel
from mobilette.run.directory import Run
from mobilette.verification.by_class import ClassChange, changed, changes_by_class
from mobilette.verification.verdict import Verdict
from mobilette.verification.verify import verify
from tests.cli.test_cli import Capture, in_this_process
from tests.verification.forged_models import forge_model, lower_class

CLASSES = tuple(ClassLabel(id=name, name=name) for name in ("cat", "dog", "newt"))


@pytest.fixture(scope="module")
def int8(trained: Run, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8")
    return mobilette.export(trained, precision="int8", data=images, out=out).path


@pytest.fixture
def copied(int8: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8, tmp_path / "copy"))


def test_a_class_that_was_made_worse_is_named_and_no_other(
    copied: Path, trained: Run, images: Path, capsys: Capture
) -> None:
    forge_model(copied, lower_class(1, by=100))
    verdict = verify(copied, images, checkpoint=trained, include_trained=True)
    assert verdict.classes_worse == ("green",)
    blue, green, red = verdict.by_class
    assert (green.images, green.accuracy_artifact, green.won) == (40, 0, 0)
    assert green.lost == round(40 * green.accuracy_source)
    assert green.p_value == pytest.approx(binomtest(0, green.lost).pvalue)
    assert green.p_adjusted == pytest.approx(3 * green.p_value)
    assert not blue.worse
    assert not red.worse
    assert verdict.change is not None
    assert verdict.change.lost == blue.lost + green.lost + red.lost

    arguments = ("verify", copied, images, "--from", trained.path, "--include-trained")
    shown = in_this_process(capsys, *arguments).stdout.splitlines()
    title = shown.index("classes that got worse (p over all 3 classes):")
    assert shown[title + 2].split() == [
        *("40", f"{green.accuracy_source:.2%}", "0.00%", f"{green.lost}", "0", "<0.001", "green")
    ]
    assert shown[title + 3].split()[0] != "40"
    given = json.loads(in_this_process(capsys, *arguments, "--json").stdout)
    assert given["classes_worse"] == ["green"]
    assert [each["id"] for each in given["by_class"]] == ["blue", "green", "red"]
    assert given["change"].keys() == {"lost", "won", "p_value"}


def test_an_artifact_that_answers_alike_has_no_worse_class(int8: Path, images: Path) -> None:
    verdict = verify(int8, images, include_trained=True)
    assert verdict.classes_worse == ()
    assert [each.images for each in verdict.by_class] == [40, 40, 40]
    assert "none" in verdict._repr_html_()


def _logits(answers: list[int]) -> NDArray[np.float32]:
    return np.eye(3, dtype=np.float32)[answers]


def test_counts_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 2, 2])
    before = _logits([0, 0, 0, 0, 0, 0, 1, 2, 0])
    after = _logits([1, 1, 1, 1, 1, 1, 0, 0, 2])
    cat, newt = changes_by_class(before, after, labels, CLASSES)
    assert (cat.id, cat.images, cat.lost, cat.won) == ("cat", 7, 6, 1)
    assert (cat.accuracy_source, cat.accuracy_artifact) == (6 / 7, 1 / 7)
    assert cat.p_value == pytest.approx(16 / 128)  # 0, 1, 6 or 7 heads of 7
    assert cat.p_adjusted == pytest.approx(32 / 128)
    assert (newt.lost, newt.won, newt.p_value) == (1, 1, 1.0)


def test_answers_that_are_not_finite_are_lost() -> None:
    labels = np.zeros(8, np.int64)
    (cat,) = changes_by_class(
        _logits([0] * 8), np.full((8, 3), np.nan, np.float32), labels, CLASSES
    )
    assert cat.lost == 8
    assert cat.worse


def test_a_class_that_only_gained_is_not_worse() -> None:
    labels = np.zeros(20, np.int64)
    (cat,) = changes_by_class(_logits([1] * 20), _logits([0] * 20), labels, CLASSES)
    assert cat.p_adjusted < 0.05
    assert not cat.worse


def test_several_classes_per_image_are_yes_or_no_answers() -> None:
    labels = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]], np.uint8)
    right = np.where(labels == 1, 2.0, -2.0).astype(np.float32)
    silent = right.copy()
    silent[:, 1] = -2
    cat, dog, newt = changes_by_class(right, silent, labels, CLASSES)
    assert (dog.images, dog.lost, dog.won) == (3, 2, 0)
    assert dog.accuracy_artifact == pytest.approx(1 / 3)
    assert cat.lost == newt.lost == 0


VERDICT = Verdict(
    passed=True,
    target="onnx",
    precision="int8",
    engine="ONNX Runtime",
    max_abs_diff=0.5,
    signal_to_noise_db=20.0,
    top1_agreement=0.9,
    failures=(),
    notes=(),
)


def _class(name: str, lost: int, *, worse: bool = False) -> ClassChange:
    return ClassChange(
        **vars(changed(np.ones(100, bool), np.arange(100) >= lost)),
        id="n01",
        name=name,
        images=12345,
        accuracy_source=1.0,
        accuracy_artifact=1 - lost / 100,
        p_adjusted=0.5,
        worse=worse,
    )


NAMES = ("图片" * 40, "a\x1b[2J\u202eb", "x" * 300, "Äpfel 🍎" * 20, "", "e\u0301" * 60)


@pytest.mark.parametrize("worse", [False, True])
def test_long_and_strange_names_fit_a_terminal(worse: bool) -> None:
    rows = [_class(name, 90 + number, worse=worse) for number, name in enumerate(NAMES)]
    lines = class_lines(replace(VERDICT, by_class=tuple(rows)))
    assert all(cell_len(line) <= 80 for line in lines)
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 2 + (6 if worse else 5)
    columns = {line.index("%") for line in lines[2:]}
    assert len(columns) <= 2  # 1% and 10%
    if not worse:
        assert lines[0].startswith("no class got significantly worse")
        assert lines[2].split()[3] == "95"  # the largest drop first


def test_nothing_to_name() -> None:
    assert class_lines(VERDICT) == []
    assert class_lines(replace(VERDICT, by_class=(_class("cat", 0),))) == [
        "no class lost right answers"
    ]

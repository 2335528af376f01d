"""`quantize` with real engines on real pictures: what it writes, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.errors import InputError
from mobilette.exporters.export import export
from mobilette.run.directory import Run
from mobilette.search.precision import quantize
from mobilette.verification.verify import verify
from tests.cli.test_cli import assert_refused, mobilette


def test_the_artifact_keeps_its_accuracy_and_says_how(
    trained: Run, pictures: Path, tmp_path: Path
) -> None:
    result = mobilette("quantize", trained.path, pictures, "--out", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["passed"]
    assert found["images"] == 120
    rung = found["rungs"][found["chosen"]]
    assert rung["kept"]
    assert rung["top1"] == pytest.approx(found["accuracy_artifact"])
    assert set(found["latency_ms"]) == {"fp32", "int8"}
    artifact = open_artifact(tmp_path / "onnx-int8")
    assert artifact.contract.precision == "int8"
    assert artifact.contract.measured is not None
    assert [each.name for each in artifact.contract.measured.rungs] == [
        each["name"] for each in found["rungs"]
    ]
    assert verify(artifact.path, pictures).passed


def test_a_drop_that_no_rung_meets_is_said_and_the_best_is_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained network answers nearly alike for all pictures: int8 flips many of them."""
    monkeypatch.setattr(rungs, "STEPS", 1)
    run = untrained("mobilenet_v1", tmp_path / "run", resolution=16, classes=3)
    monkeypatch.setattr(precision, "ROUNDS", 1)
    found = quantize(run, pictures, max_drop=1.0, out=tmp_path)
    assert not found.kept
    assert {rung.name[0] for rung in found.rungs} == {"1", "2", "3", "4"}
    assert all(rung.reason for rung in found.rungs)
    best = max(rung.top1 or 0 for rung in found.rungs)
    assert found.rungs[found.chosen].top1 == best
    assert found.artifact.path == tmp_path / "onnx-int8"


def test_what_is_quantised_already_is_refused(
    trained: Run, exported: Artifact, pictures: Path, tmp_path: Path
) -> None:
    int8 = export(trained, precision="int8", out=tmp_path)
    with pytest.raises(InputError, match=r"quantised already; give the run it was made from"):
        quantize(int8.path, pictures)
    with pytest.raises(InputError, match=r"an artifact, not a run"):
        quantize(exported.path, pictures)


@pytest.mark.parametrize("drop", [-1, 101, math.nan])
def test_no_such_drop(trained: Run, pictures: Path, drop: float) -> None:
    with pytest.raises(InputError, match=r"--max-drop .*: percentage points from 0 to 100"):
        quantize(trained, pictures, max_drop=drop)


def test_pictures_too_few_to_tell_the_drop(trained: Run, pictures: Path, tmp_path: Path) -> None:
    for folder in pictures.iterdir():
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for picture in sorted(folder.iterdir())[:5]:
            shutil.copy(picture, tmp_path / "few" / folder.name)
    result = mobilette("quantize", trained.path, tmp_path / "few", "--out", tmp_path / "out")
    assert_refused(result, "15 pictures cannot tell a drop of 1 points", "at least 100 are needed")
    assert not (tmp_path / "out").exists()


def test_a_target_without_int8_and_an_output_that_exists(
    trained: Run, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="ncnn: precision"):
        quantize(trained, pictures, to="ncnn", out=tmp_path)
    (tmp_path / "onnx-int8").mkdir()
    with pytest.raises(InputError, match="exists; give another --out"):
        quantize(trained, pictures, out=tmp_path)

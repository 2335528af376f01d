"""Runs and artifacts that earlier versions wrote still open, resume and verify."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mobilette
from mobilette.run.directory import open_run

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "version_0_1_0"
HASH = "b1df6efee1d51490c0bc646bf8cfc77e28ec7c7296f93ad292b7bc7f34705275"
TOP1 = 0.766484  # what that version measured


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    """Return a copy: nothing may write to the kept files."""
    return Path(shutil.copytree(FIXTURES, tmp_path / "fixtures"))


def test_a_finished_run_opens(fixtures: Path) -> None:
    run = open_run(fixtures / "finished")
    assert run.arch.hash == HASH
    assert [row["epoch"] for row in run.history()] == [1, 2]
    model = run.model
    assert model.arch == run.arch
    assert [label.id for label in model.classes] == [str(digit) for digit in range(10)]
    assert model.origin.name == "shufflenet_v1_g3"
    measured = mobilette.evaluate(fixtures / "finished", "digits", workers=0)
    assert measured.top1 == pytest.approx(TOP1, abs=0.01)


def test_a_stopped_run_resumes(fixtures: Path) -> None:
    stopped = fixtures / "stopped"
    before = (stopped / "metrics.csv").read_text().splitlines()
    assert len(before) == 3
    run = mobilette.resume(stopped, workers=0)
    assert (stopped / "metrics.csv").read_text().splitlines()[:3] == before
    assert [row["epoch"] for row in run.history()] == [1, 2, 3, 4, 5, 6]
    assert run.arch.hash == HASH


@pytest.mark.parametrize("artifact", ["onnx", "onnx-int8"])
def test_an_artifact_passes_against_the_run_beside_it(fixtures: Path, artifact: str) -> None:
    verdict = mobilette.verify(fixtures / "exports" / artifact, "digits", workers=0)
    assert verdict.passed
    assert verdict.accuracy_source == pytest.approx(TOP1, abs=0.01)

"""``mobilette audit`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilette.run.directory import Run
from tests.cli.test_cli import Capture, assert_refused, in_this_process


def test_a_second_audit_leaves_the_first_one(
    images: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (images.name, f"{images.name}-2"):
        result = in_this_process(capsys, "audit", images, "--run", trained.path, "--workers=0")
        assert result.returncode == 0
        assert result.stdout.startswith("120 images of 3 classes (120 in all)")
        assert f"audits/{name}/audit.csv" in result.stderr
        assert (tmp_path / "audits" / name / "audit.html").is_file()


def test_json_is_what_was_written(
    images: Path, trained: Run, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "audit"
    options = ("--run", trained.path, "--out", out, "--workers=0", "--json")
    result = in_this_process(capsys, "audit", images, *options)
    assert json.loads(result.stdout) == json.loads((out / "audit.json").read_text())
    assert_refused(in_this_process(capsys, "audit", images, *options), "exists")


def test_an_audit_is_for_a_new_run(run_copy: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "audit.csv"
    result = in_this_process(capsys, "train", "--resume", run_copy, "--without", table)
    assert_refused(result, "takes no without")

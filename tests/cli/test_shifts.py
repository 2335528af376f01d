"""`evaluate --shift`: the table, the chart and what is kept beside the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.conftest import write_images

KEYS = {"data", "images", "measure", "unshifted", "interval", "mean", "rows", "sha256"}
KEYS |= {"trained_left_out", "includes_trained", "schema"}
ROW = {"shift", "strength", "score", "drop", "interval", "drop_interval"}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("few") / "set", 2, size=28)


def test_a_table_and_a_chart(run_copy: Path, few: Path, tmp_path: Path, capsys: Capture) -> None:
    chart = tmp_path / "shifts.png"
    result = in_this_process(capsys, "evaluate", run_copy, few, "--shift", "--out", chart)
    assert result.returncode == 0, result.stderr
    first, heading, *rows, last = result.stdout.splitlines()
    assert first.startswith("top-1 ")
    assert "without a shift" in first
    assert heading.split() == ["shift", "strength", "1", "strength", "2", "strength", "3"]
    assert len(rows) == 12
    assert max(map(len, result.stdout.splitlines()[1:])) <= 80
    assert "points lost" in last
    with Image.open(chart) as image:
        assert image.size == (700, 460)
    assert f"written: {chart}, {run_copy / 'robustness.json'}" in result.stderr
    kept = json.loads((run_copy / "robustness.json").read_text())
    assert kept.keys() == KEYS

    again = in_this_process(capsys, "evaluate", run_copy, few, "--shift", "--json")
    assert json.loads(again.stdout) == kept
    assert all(row.keys() == ROW for row in kept["rows"])
    refused = in_this_process(capsys, "evaluate", run_copy, few, "--shift", "--out", chart)
    assert_refused(refused, f"{chart}: exists; give another --out, or --force")
    forced = ("--out", chart, "--force", "--json")
    assert in_this_process(capsys, "evaluate", run_copy, few, "--shift", *forced).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "a.png"], "--out a.png: the chart of --shift; give --shift too"),
        (["--force"], "--force replaces the chart of --shift"),
        (["--shift", "--out", "a.jpg"], "a.jpg: the suffix '.jpg' is not one of .png"),
        (["--shift", "--out", "no/a.png"], "no/a.png: the folder no does not exist"),
        (["--shift", "--split", "tset"], "split 'tset' is not one of "),
    ],
)
def test_refused(
    options: list[str],
    message: str,
    run_copy: Path,
    few: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(in_this_process(capsys, "evaluate", run_copy, few, *options), message)
    assert not (run_copy / "robustness.json").exists()


def test_no_pictures(run_copy: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("red", "green", "blue"):
        (tmp_path / "set" / name).mkdir(parents=True)
    assert_refused(in_this_process(capsys, "evaluate", run_copy, tmp_path / "set", "--shift"))


def test_a_model_in_a_folder_that_may_only_be_read(
    run_copy: Path, few: Path, capsys: Capture
) -> None:
    (run_copy / "robustness.json").mkdir()  # as good as read-only, for an administrator too
    result = in_this_process(capsys, "evaluate", run_copy, few, "--shift")
    assert result.returncode == 0
    assert "not kept beside the model" in result.stderr

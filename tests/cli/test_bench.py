"""``mobilette bench``, and ``predict`` on a folder of several artifacts, as a person uses them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mobilette.artifact.directory import Artifact
from mobilette.run.directory import Run
from tests.artifact.forging import forge
from tests.cli.test_cli import assert_refused, mobilette


@pytest.fixture(scope="module")
def folder(exported: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two artifacts, the second of which no engine accepts."""
    folder = tmp_path_factory.mktemp("my exports")
    for name in ("onnx", "onnx-broken"):
        shutil.copytree(exported.path, folder / name)
    forge(folder / "onnx-broken", {"model.onnx": b"no model"})
    return folder


def test_bench_writes_what_predict_then_goes_by(
    folder: Path, trained: Run, images: Path, tmp_path: Path
) -> None:
    image = images / "red" / "0.png"
    before = mobilette("predict", folder, image, "--json")
    assert json.loads(before.stdout)["label"] == "red"
    assert "the first verified artifact (no bench.json" in before.stderr

    result = mobilette("bench", folder, "--data", images, "--rounds=1", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [Path(row["artifact"]).name for row in found["rows"]] == ["onnx", "onnx-broken"]
    assert Path(found["fastest"]).name == "onnx"
    assert "onnx-broken: " in result.stderr
    assert json.loads((folder / "bench.json").read_text()) == found
    for name in ("bench.md", "bench.svg", "bench.png"):
        assert (folder / name).stat().st_size > 100

    after = mobilette("predict", folder, images / "red", "--workers=1")
    assert after.stdout.count(": red") > 30
    assert "the fastest verified artifact by" in after.stderr


def test_bench_prints_a_table(artifact_copy: Path) -> None:
    result = mobilette("bench", artifact_copy, "--rounds=1")
    assert result.returncode == 0, result.stderr
    assert "ONNX Runtime" in result.stdout
    assert "fastest verified artifact: onnx, " in result.stdout
    assert not list(artifact_copy.parent.glob("bench.*"))


def test_without_a_verified_artifact_the_status_is_1(folder: Path) -> None:
    result = mobilette("bench", folder / "onnx-broken", "--rounds=1")
    assert result.returncode == 1
    assert "no artifact is both verified and timed" in result.stdout


def test_refused(tmp_path: Path, exported: Artifact) -> None:
    assert_refused(mobilette("bench", tmp_path), "no artifact, no run")
    assert_refused(mobilette("bench", exported.path, "--data=typo"), "typo")
    (tmp_path / "file").touch()
    assert_refused(
        mobilette("bench", exported.path, f"--out={tmp_path / 'file'}"), "cannot be written"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_predict_is_interrupted_at_once(exported: Artifact, images: Path, tmp_path: Path) -> None:
    """By Ctrl-C, in the midst of more images than can be read in time."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(20_000):
        (many / f"{number}.png").hardlink_to(images / "red" / "0.png")
    command = [sys.executable, "-m", "mobilette", "predict", str(exported.path), str(many)]
    # Tests in the background ignore it, and what they start would, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == 130
    assert said == ""

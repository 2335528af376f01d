"""What is asked of `export` that it cannot do: nothing is written, and the reason is one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.artifact.directory import Artifact
from mobilette.artifact.web_runtime import NODE_MODULES
from mobilette.data.reading import Reading
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, export_calibrated
from mobilette.exporters.target import Calibration
from mobilette.reporting.benchmark import table_rows
from mobilette.run.directory import Run
from mobilette.verification.bench import bench, judge, open_row
from mobilette.workflows.export import export


def mobilette(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mobilette", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("target", [name for name, each in TARGETS.items() if each.extra])
def test_a_missing_extra_is_named(
    target: str, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name in ("mobilette", "torch"):
            return "1"
        raise PackageNotFoundError(name)

    monkeypatch.setattr("mobilette.exporters.target.version_of", version)
    extra = TARGETS[target].extra
    pattern = (
        rf"export to {target}: .* is missing; install it with pip install 'mobilette\[{extra}\]'"
    )
    with pytest.raises(InputError, match=pattern):
        export(trained, to=target, out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((20, 3, 32, 32), np.uint8), r"uint8 \(20, 3, 32, 32\); uint8 \(N, 3, 16, 16\)"),
        (np.zeros((20, 1, 16, 16), np.uint8), "is expected"),
        (np.zeros((20, 3, 16, 16), np.float32), "are float32"),
        (np.zeros((3, 3, 16, 16), np.uint8), "3 images are too few"),
        (np.zeros((0, 3, 16, 16), np.uint8), "0 images are too few"),
    ],
)
def test_calibration_of_another_kind_is_refused(
    pixels: Any, reason: str, trained: Run, tmp_path: Path
) -> None:
    calibration = Calibration(pixels=pixels, source="given")
    with pytest.raises(InputError, match=reason):
        export_calibrated(trained, precision="int8", calibration=calibration, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_where_one_of_several_exists(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "web").mkdir(parents=True)
    done = mobilette("export", str(trained.path), "--to=onnx,web", "--out=out", folder=tmp_path)
    assert done.returncode == 2
    assert "web: exists; give another --out" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["web"]


def test_a_benchmark_imports_nothing_from_where_it_is_started(
    exported: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    (row,) = bench([exported.path], rounds=1, seconds=0.01).rows
    assert row.verified
    assert row.latency_ms is not None


def test_rounded_numbers_are_not_verified_without_images(trained: Run, tmp_path: Path) -> None:
    artifact = export(trained, precision="int8", out=tmp_path)
    found = judge(open_row(artifact.path), None, Reading())
    assert found.verified is None
    assert "give --data" in found.reasons[0]


def test_what_cannot_run_here_is_not_run_rather_than_refuted(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NODE_MODULES, str(tmp_path))
    artifact = export(trained, to="web", out=tmp_path)
    found = bench([artifact.path], rounds=1, seconds=0.01)
    assert found.rows[0].verified is None
    assert table_rows(found)[0][3] == "not run"
    (reason,) = found.rows[0].reasons
    assert "onnxruntime-web is not in" in reason or "node is not installed" in reason


def test_an_artifact_does_not_bring_its_judge(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NODE_MODULES, raising=False)
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    artifact = export(trained, to="web", out=tmp_path)
    package = artifact.path / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text("{}")
    harm = 'import { writeFileSync } from "node:fs"; writeFileSync("witness", "");'
    (package / "dist" / "ort.node.min.mjs").write_text(harm)
    done = mobilette("verify", ".", folder=artifact.path)
    assert not (artifact.path / "witness").exists()
    assert "verify: passed" in done.stdout or "lies in the artifact itself" in done.stderr

"""`bench` on real artifacts: what is measured, what is judged, and what is named the fastest."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mobilette.artifact.directory import Artifact
from mobilette.engines.timing import Request, measure
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.verification.bench import bench, expand, time_once
from mobilette.verification.benchmark import BENCH, Benchmark, Latency, Row, choose_artifact
from tests.artifact.forging import forge

SECONDS = 0.01


@pytest.fixture(scope="module")
def folder(exported: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three artifacts: one good, one wrong, one that no engine accepts."""
    folder = tmp_path_factory.mktemp("several")
    for name in ("onnx", "worse", "broken"):
        shutil.copytree(exported.path, folder / name)
    (folder / "worse" / "golden.npz").write_bytes(_other_golden(exported))
    forge(folder / "worse")
    forge(folder / "broken", {"model.onnx": b"no model"})
    return folder


def _other_golden(artifact: Artifact) -> bytes:
    golden = artifact.golden
    return replace(golden, logits=golden.logits[:, ::-1].copy()).to_bytes()


@pytest.fixture(scope="module")
def found(folder: Path, trained: Run, images: Path) -> Benchmark:
    return bench([folder, trained.path], images, rounds=2, seconds=SECONDS, workers=0)


def row(found: Benchmark, name: str) -> Row:
    (only,) = (row for row in found.rows if Path(row.artifact).name == name)
    return only


def test_what_is_measured_of_an_artifact(found: Benchmark, exported: Artifact) -> None:
    good = row(found, "onnx")
    assert (good.engine, good.precision, good.target) == ("ONNX Runtime", "fp32", "onnx")
    assert good.verified
    assert good.reasons == ()
    assert good.sha256 == exported.contract.sha256
    assert good.top1 is not None
    assert good.top1 > 0.9
    assert (good.images, good.trained_left_out, good.includes_trained) == (24, 96, False)
    assert good.size_bytes == (exported.path / "model.onnx").stat().st_size
    latency, batch = good.latency_ms, good.best_batch
    assert latency is not None
    assert 0 < latency.p10 <= latency.median <= latency.p90
    assert latency.n >= 20
    assert batch is not None
    assert batch.images_per_second == pytest.approx(1e3 * batch.size / batch.latency_ms.median)
    assert good.load_ms is not None
    assert good.load_ms > latency.median
    if Path("/proc/self/statm").exists():
        assert good.memory_bytes is not None
        assert 1e6 < good.memory_bytes < 1e9


def test_a_run_is_measured_beside_its_artifacts(found: Benchmark, trained: Run) -> None:
    reference = row(found, trained.path.name)
    assert (reference.engine, reference.target, reference.verified) == ("PyTorch", None, None)
    assert reference.top1 == row(found, "onnx").top1
    assert reference.latency_ms is not None


def test_what_is_wrong_with_an_artifact_is_said_and_it_is_never_the_fastest(
    found: Benchmark, folder: Path
) -> None:
    worse, broken = row(found, "worse"), row(found, "broken")
    assert worse.verified is False
    assert any("golden vectors" in reason for reason in worse.reasons)
    assert worse.latency_ms is not None
    assert broken.verified is False
    assert broken.latency_ms is None
    assert "ONNX Runtime does not accept it" in broken.reasons[0]
    assert len(broken.reasons) == 1
    assert found.fastest == str(folder / "onnx")


def test_the_fastest_of_a_folder_is_the_one_of_its_benchmark(
    found: Benchmark, folder: Path, tmp_path: Path
) -> None:
    here = Path(shutil.copytree(folder, tmp_path / "moved"))
    chosen, why = choose_artifact(here)
    assert chosen == here / "onnx"
    assert "the first verified artifact (no bench.json" in why

    (here / BENCH).write_text(json.dumps(found.to_json()))
    chosen, why = choose_artifact(here)
    assert chosen == here / "onnx"
    assert "the fastest verified artifact by" in why

    level = []
    for each in found.rows:
        good = each.target is not None and each.latency_ms is not None
        latency = Latency(median=2.0, p10=1.0, p90=3.0, n=9) if good else each.latency_ms
        top1 = 0.99 if Path(each.artifact).name == "worse" else 0.9
        level.append(replace(each, verified=good, latency_ms=latency, top1=top1))
    (here / BENCH).write_text(json.dumps(replace(found, rows=tuple(level)).to_json()))
    chosen, why = choose_artifact(here)
    assert chosen == here / "worse"
    assert "as fast as onnx, and of these the most accurate" in why

    shutil.rmtree(here / "worse")
    chosen, why = choose_artifact(here)
    assert chosen == here / "onnx"
    assert "bench.json covers other artifacts" in why


def test_without_a_verified_artifact_none_is_chosen(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "worse", tmp_path / "some" / "worse")
    with pytest.raises(InputError, match="no artifact in it is verified; the first: .*golden"):
        choose_artifact(tmp_path / "some")
    with pytest.raises(InputError, match="no artifact in this folder"):
        choose_artifact(tmp_path)


def test_one_that_nothing_here_executes_is_a_row_of_its_own(artifact_copy: Path) -> None:
    forge(artifact_copy, verifiable=False)
    (only,) = bench([artifact_copy], rounds=1, seconds=SECONDS).rows
    assert (only.verified, only.latency_ms) == (None, None)
    assert only.reasons == ("nothing here executes 'onnx' artifacts",)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_an_engine_that_dies_ends_its_own_process_only(
    exported: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module that kills its process stands in for an engine that does."""
    (tmp_path / "onnxruntime").mkdir()
    text = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "onnxruntime" / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    request = Request(path=str(exported.path), threads=1, batches=(1,), seconds=SECONDS)
    with pytest.raises(InputError, match="its process died of signal 9"):
        time_once(request)


def test_requests_that_cannot_be_met(tmp_path: Path, exported: Artifact, trained: Run) -> None:
    with pytest.raises(InputError, match="nothing: missing"):
        bench([tmp_path / "nothing"])
    with pytest.raises(InputError, match="no artifact, no run and no folder of artifacts"):
        bench([tmp_path])
    with pytest.raises(InputError, match="typo"):
        bench([exported.path], tmp_path / "typo")
    with pytest.raises(InputError, match="--threads 512: "):
        bench([exported.path], threads=512)
    twice = expand([exported.path, exported.path.parent, trained.path])
    assert twice == [exported.path, trained.path]


def test_the_benchmark_is_json_and_back(found: Benchmark) -> None:
    content = json.loads(json.dumps(found.to_json()))
    wanted = {"artifact", "engine", "precision", "top1", "latency_ms", "size_bytes"}
    assert all(wanted <= row.keys() for row in content["rows"])
    (good,) = (row for row in content["rows"] if row["artifact"] == found.fastest)
    assert good["latency_ms"].keys() == {"median", "p10", "p90", "n"}
    assert content["fastest"] == found.fastest


def test_every_batch_is_timed_as_long_as_it_was_asked(exported: Artifact) -> None:
    timing = measure_here(exported, batches=(1, 3))
    assert set(timing) == {"1", "3"}
    assert len(timing["1"]) >= 10
    assert len(timing["3"]) >= 2


def measure_here(artifact: Artifact, *, batches: tuple[int, ...]) -> dict[str, tuple[float, ...]]:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        request = Request(path=str(artifact.path), threads=1, batches=batches, seconds=SECONDS)
        timing = measure(request)
        if before is not None:
            assert len(os.sched_getaffinity(0)) == 1
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
    return dict(timing.calls_ms)

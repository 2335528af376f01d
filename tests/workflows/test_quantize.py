"""`quantize` with real engines on real images: what it writes, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.exporters import litert, litert_int8
from mobilette.model.directory import WEIGHTS
from mobilette.run.directory import Run
from mobilette.search import int8_ladder, int8_measurement
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from mobilette.workflows.quantize import quantize
from tests.cli.test_cli import Capture, assert_refused, in_this_process
from tests.conftest import COLOURS


@pytest.fixture(autouse=True)
def timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each precision be timed in one process, not three: no test judges how long it took."""
    monkeypatch.setattr(int8_measurement, "ROUNDS", 1)
    monkeypatch.setattr(int8_measurement, "SECONDS", 0.01)


def test_the_artifact_keeps_its_accuracy_and_says_how(
    trained: Run, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    options = ("--include-trained", "--out", tmp_path, "--json")
    result = in_this_process(capsys, "quantize", trained.path, images, *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["passed"]
    assert (found["images"], found["includes_trained"]) == (120, True)
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
    assert verify(artifact.path, images).passed


@pytest.mark.usefixtures("int8_slower")
def test_a_model_that_no_run_holds(trained: Run, images: Path, tmp_path: Path) -> None:
    model = replace(trained.model, origin=replace(trained.model.origin, source="mine"))
    with pytest.raises(InputError, match=r"mine: not trained here.*--calibrate DATA"):
        quantize(model, images, out=tmp_path)
    found = quantize(model, images, calibrate=images, out=tmp_path)
    assert found.kept
    assert found.verdict.accuracy_source is not None
    assert "mobilette.export(model, " in found.advice
    assert "mobilette export" not in found.advice


def test_each_rung_is_converted_once_and_says_what_is_done(
    trained: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversions are what takes minutes: the chosen one is kept, not made a second time."""
    pytest.importorskip("litert_torch", reason="litert-export is not installed")
    converted: list[bool] = []
    convert = litert.convert

    def counted(program: torch.nn.Module, example: torch.Tensor, *, quantised: bool) -> bytes:
        converted.append(quantised)
        return convert(program, example, quantised=quantised)

    monkeypatch.setattr(litert, "convert", counted)
    told: list[tuple[str, int, int]] = []
    found = quantize(
        trained,
        images,
        to="litert",
        include_trained=True,
        out=tmp_path / "exports",
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert converted.count(True) == len(found.rungs)
    assert converted.count(False) == 1  # for the comparison of latencies
    shown = [done for what, done, total in told if what == "calibrating"]
    assert shown == list(range(0, 96, litert_int8.BATCH)) * len(found.rungs)
    assert {"converting for LiteRT", "executing"} <= {what for what, _, _ in told}
    # its run is found from where it was moved to
    assert verify(found.artifact.path, images).accuracy_source is not None


@pytest.mark.usefixtures("int8_slower")
def test_a_layer_that_int8_cannot_express_stays_in_float(
    run_copy: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Differences of a thousandth between the classes' weights are no step of int8 apart."""
    monkeypatch.setattr(int8_measurement, "RANGES", ("plain",))
    weights = load_file(run_copy / WEIGHTS)
    name = "head.classifier.weight"
    common = 3000 * weights[name].abs().max() * torch.ones(weights[name].shape[1])
    weights[name] += common
    save_file(weights, run_copy / WEIGHTS)
    found = quantize(run_copy, images, include_trained=True, out=tmp_path / "exports")
    assert found.kept
    assert found.rungs[found.chosen].float_layers == ("head.classifier",)
    assert found.artifact.contract.float_layers == ("head.classifier",)
    assert not found.rungs[0].kept


@pytest.mark.usefixtures("int8_slower")
def test_a_drop_that_no_rung_meets_is_said_and_the_best_is_kept(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that differ by less than a step of most activations, answered one way or another."""
    monkeypatch.setattr(int8_ladder, "STEPS", 1)
    monkeypatch.setattr(int8_measurement, "RANGES", ("plain",))
    monkeypatch.setattr(int8_ladder, "LARGEST_FLOAT_PART", 0.0)
    generator = np.random.default_rng(0)
    alike = tmp_path / "alike"
    for name in COLOURS:
        (alike / name).mkdir(parents=True)
        for index in range(40):
            pixels = np.clip(generator.normal(COLOURS["blue"], 1, (16, 16, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(alike / name / f"{index}.png")
    pixels = np.stack([np.asarray(Image.open(path)) for path in alike.rglob("*.png")])
    logits = load(run_copy).logits(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    weights = load_file(run_copy / WEIGHTS)
    weights["head.classifier.bias"] -= torch.from_numpy(np.median(logits, axis=0))
    save_file(weights, run_copy / WEIGHTS)
    out = tmp_path / "exports"
    found = quantize(run_copy, alike, calibrate=alike, out=out)
    assert not found.kept
    assert {rung.name[0] for rung in found.rungs} == {"1", "2", "3", "4"}
    assert all(rung.reason for rung in found.rungs)
    best = max(rung.top1 or 0 for rung in found.rungs)
    assert found.rungs[found.chosen].top1 == best
    assert found.artifact.path == out / "onnx-int8"


def test_what_is_quantised_already_is_refused(
    trained: Run, exported: Artifact, images: Path, tmp_path: Path
) -> None:
    int8 = export(trained, precision="int8", out=tmp_path)
    with pytest.raises(InputError, match=r"quantised already; give the run it was made from"):
        quantize(int8.path, images)
    with pytest.raises(InputError, match=r"an artifact, not a run"):
        quantize(exported.path, images)


@pytest.mark.parametrize("drop", [-1, 101, math.nan])
def test_no_such_drop(trained: Run, images: Path, drop: float) -> None:
    with pytest.raises(InputError, match=r"--max-drop .* is not between 0.0 and 100.0"):
        quantize(trained, images, max_drop=drop)


def test_images_too_few_to_tell_the_drop(
    trained: Run, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    for folder in images.iterdir():
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for image in sorted(folder.iterdir())[:5]:
            shutil.copy(image, tmp_path / "few" / folder.name)
    few = ("quantize", trained.path, tmp_path / "few", "--out", tmp_path / "out")
    result = in_this_process(capsys, *few)
    assert_refused(result, "images (without ", " that it was trained on) are too few to measure")
    result = in_this_process(capsys, *few, "--include-trained")
    assert_refused(
        result, "15 images are too few to measure a drop of 1 points", "at least 100 are needed"
    )
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_told_before_images_are_read(
    trained: Run, run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_copy / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"best\.safetensors: missing"):
        quantize(run_copy, tmp_path / "no images")

    def version(name: str) -> str:
        if name == "openvino":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("mobilette.exporters.target.version_of", version)
    with pytest.raises(
        InputError, match=r"openvino is missing; install it with pip install 'mobilette\[openvino"
    ):
        quantize(trained, tmp_path / "no images", to="openvino")


def test_a_target_without_int8_and_an_output_that_exists(
    trained: Run, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="ncnn: precision"):
        quantize(trained, images, to="ncnn", out=tmp_path)
    (tmp_path / "onnx-int8").mkdir()
    with pytest.raises(InputError, match="exists; give another --out"):
        quantize(trained, images, out=tmp_path)

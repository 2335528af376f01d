"""Every target with a network for images of 24x40 pixels."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from mobilette.artifact.web_runtime import PACKAGE, VERSION, find_package
from mobilette.data.preprocess import Resize
from mobilette.engines.load import load
from mobilette.engines.onnxruntime_web import find_node
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, export_calibrated
from mobilette.exporters.state_dict import export_state_dict
from mobilette.exporters.target import Calibration
from mobilette.run.directory import Run
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.exporters.networks import run_printed
from tests.exporters.small_runs import small_calibration, small_run

SIZE = (24, 40)
ROWS = ("mobilenet_v2", (0, 1, 2))
NEEDED = {
    "onnx": (),
    "web": (),
    "litert": ("litert_torch", "torchao"),
    "mcu": ("litert_torch", "torchao", "tflite_micro"),
    "openvino": ("openvino", "nncf"),
    "ncnn": ("ncnn", "pnnx"),
    "executorch": ("executorch", "torchao"),
    "coreml": ("coremltools",),
    "keras": ("keras",),
}


def install(target: str) -> None:
    for package in NEEDED[target]:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if target == "web":
        try:
            find_node()
            find_package(PACKAGE, VERSION, artifact=Path(__file__))
        except InputError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def oblong(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small_run(tmp_path_factory.mktemp("run") / "run", *ROWS, resolution=SIZE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a set of pictures of several sizes in the run's classes."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number, (width, height) in enumerate(((50, 30), (30, 50), (40, 24), (17, 61), (200, 20))):
        (folder / "abcde"[number]).mkdir()
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "abcde"[number] / "0.png")
    return folder


def test_every_target_is_tested() -> None:
    assert NEEDED.keys() == TARGETS.keys()


@pytest.mark.parametrize("target", NEEDED)
def test_it_answers_as_the_network_does(
    target: str, oblong: Run, images: Path, tmp_path: Path
) -> None:
    install(target)
    run, precision = oblong, TARGETS[target].precisions[0]
    calibration = small_calibration(SIZE) if precision == "int8" else None
    artifact = export_calibrated(
        run, to=target, precision=precision, calibration=calibration, out=tmp_path
    )
    height, width, channels = (*SIZE, 3)
    planes = (channels, height, width)
    layout = TARGETS[target].layout
    assert artifact.contract.input.shape == ((*SIZE, 3) if layout == "NHWC" else planes)
    assert artifact.golden.inputs.shape[1:] == planes
    readme = (artifact.path / "README.md").read_text(encoding="utf-8")
    assert "5 classes, 24x40 pixels, made by" in readme
    if target == "coreml":
        return  # nothing here executes it
    # int8 of random weights may answer otherwise; the README and tflite-micro are judged anyway.
    verdict = verify(artifact.path, images, checkpoint=run.path, max_drop=100.0)
    assert verdict.readme_images == 5
    assert verdict.passed or (precision == "int8" and verdict.signal_to_noise_db > 15), verdict
    if TARGETS[target].language == "python":
        label, _ = run_printed(artifact.path)
        assert load(artifact.path).predict([artifact.path / "image.jpg"])[0].label == label
    if target == "mcu":
        assert "memcpy(interpreter.input(0)->data.uint8, pixels, 24 * 40 * 3);" in readme


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("fraction", [1.0, 0.8])
def test_the_readmes_python_prepares_images_as_we_do(
    resize: Resize, fraction: float, oblong: Run, images: Path, tmp_path: Path
) -> None:
    preprocess = replace(oblong.preprocess, resize=resize, crop_fraction=fraction)
    folder = replace(oblong.model, preprocess=preprocess).save(tmp_path / "run")
    artifact = export(folder, out=tmp_path)
    verdict = verify(artifact.path, images, max_drop=100.0)
    assert not verdict.failures
    assert verdict.readme_images == 5


def test_images_of_the_transposed_size_do_not_calibrate(oblong: Run, tmp_path: Path) -> None:
    pixels = small_calibration((40, 24)).pixels
    with pytest.raises(InputError, match=r"\(32, 3, 40, 24\); uint8 \(N, 3, 24, 40\) is expected"):
        export_calibrated(
            oblong,
            to="onnx",
            precision="int8",
            calibration=Calibration(pixels=pixels, source="turned"),
            out=tmp_path,
        )


def test_the_state_dicts_readme(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "mobilenet_v2", resolution=(96, 160))
    file = export_state_dict(run, names="timm", out=tmp_path)
    assert len(load_file(file)) > 100
    text = (file.parent / "README.md").read_text(encoding="utf-8")
    assert "`network` takes float32 (batch, 3, 96, 160) and gives logits" in text
    assert "Images are brought to 96x160 by scaling to cover 96x160 (bilinear)" in text

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from mobilette.arch.layers import layers
from mobilette.artifact.directory import Artifact
from mobilette.data.dataset import load_split
from mobilette.data.preprocess import PRESETS
from mobilette.data.sources import find_images
from mobilette.engines.load import load
from mobilette.run.directory import Run
from mobilette.run.metrics import accuracy
from mobilette.workflows.export import export


@pytest.fixture(scope="module")
def int8(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, precision="int8", out=tmp_path_factory.mktemp("exports"))


def test_int8_keeps_the_accuracy(int8: Artifact, trained: Run, images: Path) -> None:
    chosen = find_images(images).splits["all"]
    split, _ = load_split(chosen, num_classes=3, resolution=16, preprocess=trained.preprocess)
    ours, theirs = (load(path).logits(split.pixels[:]) for path in (int8.path, trained.path))
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.95
    assert accuracy(ours, split.labels) > 0.9


def test_weights_are_int8_per_channel_and_activations_uint8(
    int8: Artifact, exported: Artifact
) -> None:
    model = onnx.load(int8.path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = tensors["rows.0.pointwise.conv.weight_quantized"]
    assert weight.dtype == np.int8
    assert tensors["rows.0.pointwise.conv.weight_scale"].shape == weight.shape[:1]
    assert tensors["rows.0.pointwise.activation_zero_point"].dtype == np.uint8
    sizes = [(each.path / "model.onnx").stat().st_size for each in (int8, exported)]
    assert sizes[0] < sizes[1] / 2


def test_its_contract_says_what_it_was_calibrated_with(int8: Artifact, images: Path) -> None:
    assert int8.path.name == "onnx-int8"
    assert int8.contract.calibration is not None
    assert int8.contract.calibration.data == str(images)
    model = onnx.load(int8.path / "model.onnx")
    (entry,) = model.metadata_props
    assert json.loads(entry.value)["precision"] == "int8"


def test_nodes_are_named_after_the_layers(int8: Artifact) -> None:
    model = onnx.load(int8.path / "model.onnx")
    names = ("normalise", *(layer.name for layer in layers(int8.contract.arch)))
    for node in model.graph.node:
        assert node.name.startswith((*names, "pixels", "logits")), node.name


@pytest.mark.parametrize("name", ["tf", "unit", "raw", "torch", "caffe"])
def test_pixels_are_the_quantised_input_where_channels_are_alike(
    name: str, run_copy: Path, images: Path, tmp_path: Path
) -> None:
    """`tf` has its mean between two integers: half a step is moved into the first bias."""
    preprocess = PRESETS[name]
    record = json.loads((run_copy / "preprocess.json").read_text())
    record |= {"mean": preprocess.mean, "std": preprocess.std, "colour": preprocess.colour}
    (run_copy / "preprocess.json").write_text(json.dumps(record))
    artifact = export(run_copy, precision="int8", out=tmp_path)
    model = onnx.load(artifact.path / "model.onnx")
    (first,) = (node for node in model.graph.node if "pixels" in node.input)
    absorbed = name in ("tf", "unit", "raw")
    assert first.op_type == ("DequantizeLinear" if absorbed else "Cast")
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert any(each.startswith("normalise") for each in convolutions) != absorbed
    if absorbed:
        tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        assert tensors[first.input[1]] == np.float32(1 / preprocess.std[0])
        assert tensors[first.input[2]] == round(preprocess.mean[0])
    float_run, int8 = load(run_copy), load(artifact.path)
    paths = sorted(images.glob("*/?.png"))
    pixels = np.stack([int8.preprocess.geometry(Image.open(path), 16) for path in paths])
    wanted = float_run.logits(pixels)
    error = np.square(int8.logits(pixels) - wanted).sum() / np.square(wanted).sum()
    assert error < 0.25  # 6 dB: another mean makes it about 1


def test_the_quantiser_is_silent_and_leaves_logging_as_it_was(
    trained: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    export(trained, precision="int8", out=tmp_path)
    assert (root.level, list(root.handlers)) == before
    assert capfd.readouterr() == ("", "")


def test_the_same_run_gives_the_same_bytes(int8: Artifact, trained: Run, tmp_path: Path) -> None:
    again = export(trained, precision="int8", out=tmp_path)
    models = [onnx.load(each.path / "model.onnx") for each in (int8, again)]
    for model in models:
        del model.metadata_props[:]  # where the run lies, seen from the artifact
    assert models[0] == models[1]


def test_a_run_whose_images_are_gone_needs_others(
    run_copy: Path, tmp_path: Path, images: Path
) -> None:
    record = json.loads((run_copy / "dataset.json").read_text())
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    text = json.dumps(record).replace(json.dumps(str(images))[1:-1], "/gone")
    (run_copy / "dataset.json").write_text(text)
    artifact = export(run_copy, precision="int8", data=moved, out=tmp_path / "out")
    assert artifact.contract.calibration is not None
    assert artifact.contract.calibration.data == str(moved)

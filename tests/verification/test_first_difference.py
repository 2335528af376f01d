"""The layer that somebody changed is the one that is named, in every format that can tell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import Artifact
from mobilette.exporters.calibration import calibration_images
from mobilette.run.directory import Run
from mobilette.verification.first_difference import Difference, first_difference
from mobilette.workflows.export import export
from mobilette.workflows.train import train
from tests.artifact.forging import forge

CHANGED = "rows.5.conv1.conv"
Change = Callable[[NDArray[Any]], NDArray[Any]]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Run:
    """Return a run that 8 bits suit: depthwise layers trained for seconds may be lost in them."""
    return train(
        images,
        model="resnet20",
        resolution=16,
        overrides={"epochs": 3, "batch_size": 16},
        out=tmp_path_factory.mktemp("dense") / "run",
    )


@pytest.fixture(scope="module", params=["onnx", "onnx-int8", "openvino", "openvino-int8"])
def artifact(
    request: pytest.FixtureRequest, dense: Run, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    target, _, int8 = request.param.partition("-")
    if target == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("nncf")
    precision: Precision = "int8" if int8 else "fp32"
    return export(dense, to=target, precision=precision, out=tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def pixels(dense: Run) -> NDArray[np.uint8]:
    return calibration_images(dense).pixels[:1]


def test_a_faithful_artifact_has_none(
    artifact: Artifact, dense: Run, pixels: NDArray[np.uint8]
) -> None:
    assert first_difference(artifact, dense.model, pixels) is None


def test_the_layer_with_other_weights_is_named(
    artifact: Artifact, dense: Run, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(artifact.path, tmp_path / "copy"))
    forged = _negate_onnx(folder) if artifact.contract.target == "onnx" else _negate_ir(folder)
    for each in (pixels, None):
        found = first_difference(forged, dense.model, each)
        assert isinstance(found, Difference)
        assert found.layer == CHANGED
        assert found.relative > 0.1
        assert found.snr_db < 10


def test_a_forgotten_mean_is_named(exported: Artifact, trained: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.path, tmp_path / "copy"))
    model = onnx.load(folder / "model.onnx")
    _change(model, "normalise.bias", lambda values: np.zeros_like(values))
    forged = forge(folder, {"model.onnx": model.SerializeToString()})
    found = first_difference(forged, trained.model)
    assert found is not None
    assert found.layer == "normalise"


def test_an_engine_that_cannot_show_its_layers_says_nothing(
    exported: Artifact, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilette.engines.artifact import ArtifactPredictor
    from mobilette.engines.onnxruntime import OnnxRuntimePredictor

    monkeypatch.setattr(OnnxRuntimePredictor, "activations", ArtifactPredictor.activations)
    assert first_difference(exported, trained.model) is None


def _negate_onnx(folder: Path) -> Artifact:
    """Turn the sign of the weights of `CHANGED`, which int8 represents as well."""
    model = onnx.load(folder / "model.onnx")
    names = {tensor.name for tensor in model.graph.initializer}
    name = f"{CHANGED}.weight"
    _change(model, name if name in names else f"{name}_quantized", _negated)
    return forge(folder, {"model.onnx": model.SerializeToString()})


def _negate_ir(folder: Path) -> Artifact:
    xml = ElementTree.fromstring((folder / "model.xml").read_bytes())
    content = bytearray((folder / "model.bin").read_bytes())
    data = _weights(xml, f"{CHANGED}/WithoutBiases")
    begin = int(data.get("offset", ""))
    kind = np.int8 if data.get("element_type") == "i8" else np.float32
    end = begin + int(data.get("size", ""))
    content[begin:end] = _negated(np.frombuffer(content[begin:end], kind)).tobytes()
    return forge(folder, {"model.bin": bytes(content)})


def _weights(xml: ElementTree.Element, name: str) -> ElementTree.Element:
    """Return what says where the weights of the convolution ``name`` are."""
    layers = {layer.get("id"): layer for layer in xml.iterfind("layers/layer")}
    (convolution,) = (each for each in layers.values() if each.get("name") == name)
    edges = [edge.attrib for edge in xml.iterfind("edges/edge")]
    above = [
        edge["from-layer"]
        for edge in edges
        if (edge["to-layer"], edge["to-port"]) == (convolution.get("id"), "1")
    ]
    found = []
    while above:
        layer = layers[above.pop()]
        data = layer.find("data")
        if layer.get("type") == "Const" and data is not None:
            found.append(data)
        above += [edge["from-layer"] for edge in edges if edge["to-layer"] == layer.get("id")]
    return max(found, key=lambda data: int(data.get("size", "")))


def _negated(values: NDArray[Any]) -> NDArray[Any]:
    negated: NDArray[Any] = np.negative(values)
    return negated


def _change(model: onnx.ModelProto, name: str, change: Change) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))

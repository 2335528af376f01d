from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.artifact.tflite import (
    ask_litert,
    ask_tflite_micro,
    check_tflite,
    contract_inside,
    litert_interpreter,
)
from mobilette.data.dataset import load_split
from mobilette.data.sources import find_images
from mobilette.engines.litert import LiteRtPredictor
from mobilette.engines.load import load
from mobilette.engines.pytorch import CheckpointPredictor
from mobilette.errors import InputError
from mobilette.exporters.export import export_calibrated
from mobilette.formats.tflite.schema import ModelRecord
from mobilette.run.directory import Run
from mobilette.run.metrics import softmax
from mobilette.verification.gate import signal_to_noise
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.exporters.small_runs import small_calibration, small_run

pytest.importorskip("litert_torch")
pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def fp32(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, to="litert", out=tmp_path_factory.mktemp("litert"))


@pytest.fixture(scope="module")
def int8(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("litert")
    return export(trained, to="litert", precision="int8", out=out)


def record(artifact: Artifact) -> ModelRecord:
    return check_tflite(artifact.read_model())


def ends(found: ModelRecord) -> list[tuple[str, str, tuple[int, ...]]]:
    tensors = (found.tensors[found.inputs[0]], found.tensors[found.outputs[0]])
    return [(tensor.name, tensor.kind, tensor.shape) for tensor in tensors]


def test_fp32_takes_uint8_nhwc_and_gives_the_networks_logits(fp32: Artifact) -> None:
    assert fp32.path.name == "litert"
    assert ends(record(fp32)) == [
        ("pixels", "uint8", (1, 16, 16, 3)),
        ("logits", "float32", (1, 3)),
    ]
    verdict = verify(fp32.path)
    assert verdict.passed
    assert verdict.max_abs_diff < 1e-4


def test_the_contract_is_inside(fp32: Artifact, int8: Artifact) -> None:
    for artifact in (fp32, int8):
        inside = contract_inside(artifact.read_model())
        assert inside is not None
        assert '"target":"litert"' in inside
        assert f'"precision":"{artifact.contract.precision}"' in inside


def test_int8_is_integers_from_end_to_end(int8: Artifact) -> None:
    assert int8.path.name == "litert-int8"
    found = record(int8)
    assert ends(found) == [("pixels", "uint8", (1, 16, 16, 3)), ("logits", "int8", (1, 3))]
    assert {tensor.kind for tensor in found.tensors} == {"uint8", "int8", "int32"}
    assert {operator.name for operator in found.operators} <= {
        "QUANTIZE",
        "PAD",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "AVERAGE_POOL_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
    }
    weights = [x for x in found.tensors if len(x.data) and x.kind == "int8"]
    assert all(x.quantisation is not None and not x.quantisation.zero_point.any() for x in weights)
    assert any(x.quantisation is not None and len(x.quantisation.scale) > 1 for x in weights)


def test_int8_answers_as_the_network_does(int8: Artifact, trained: Run, images: Path) -> None:
    found = find_images(images)
    split, _ = load_split(
        found.splits["all"],
        num_classes=3,
        resolution=16,
        preprocess=trained.preprocess,
    )
    network = CheckpointPredictor(trained).logits(split.pixels[:])
    for reference in (False, True):
        predictor = LiteRtPredictor(int8, threads=1, reference=reference)
        assert predictor.engine == f"LiteRT ({'reference' if reference else 'XNNPACK'})"
        logits = predictor.logits(split.pixels[:])
        assert logits.dtype == np.float32
        assert (logits.argmax(1) == network.argmax(1)).mean() >= 0.95
        assert signal_to_noise(logits, network) > 10
    assert int8.contract.calibration is not None
    assert int8.contract.calibration.images >= 16


FAMILIES = {
    "v2": ("mobilenet_v2", (0, 1, 2)),
    "v3": ("mobilenet_v3_small", (0, 1, 2, 3)),
    "shufflenet": ("shufflenet_v2", (0, 1)),
    "squeezenet": ("squeezenet1_0", (0, 1)),
    "resnet": ("resnet20", (0, 3)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_layer_is_computed_in_integers(family: str, tmp_path: Path) -> None:
    name, rows = FAMILIES[family]
    run = small_run(tmp_path / "run", name, rows)
    artifact = export_calibrated(
        run, to="litert", precision="int8", calibration=small_calibration(), out=tmp_path
    )
    found = record(artifact)
    assert {x.kind for x in found.tensors} <= {"uint8", "int8", "int32"}
    logits = LiteRtPredictor(artifact, reference=True).logits(artifact.golden.inputs)
    steps = found.tensors[found.outputs[0]].quantisation
    assert steps is not None
    error = logits - artifact.golden.logits
    power = np.mean(artifact.golden.logits.astype(np.float64) ** 2)
    assert 10 * np.log10(power / np.mean(error**2)) > 20, "signal to noise, dB"
    if family == "v3":
        assert [x.name for x in found.operators].count("HARD_SWISH") >= 2
        assert "LOGISTIC" not in {x.name for x in found.operators}


def test_where_mean_and_std_are_equal_normalisation_costs_nothing(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "mobilenet_v1", (0,), preprocess="tf")
    artifact = export_calibrated(
        run, to="litert", precision="int8", calibration=small_calibration(), out=tmp_path
    )
    found = record(artifact)
    assert [x.name for x in found.operators][:3] == ["QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D"]
    steps = found.tensors[found.inputs[0]].quantisation
    assert steps is not None
    assert steps.scale[0] == pytest.approx(1 / 127.5)
    assert steps.zero_point[0] in (127, 128)  # for 127.5; the half is in the bias
    logits = LiteRtPredictor(artifact, reference=True).logits(artifact.golden.inputs)
    allowed = 0.05 * np.abs(artifact.golden.logits).max()
    assert np.abs(logits - artifact.golden.logits).max() < allowed


def test_other_means_and_blue_first_are_a_convolution(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "mobilenet_v1", (0,), preprocess="caffe")
    artifact = export_calibrated(
        run, to="litert", precision="int8", calibration=small_calibration(), out=tmp_path
    )
    found = record(artifact)
    assert [x.name for x in found.operators][:3] == ["QUANTIZE", "CONV_2D", "CONV_2D"]
    logits = LiteRtPredictor(artifact, reference=True).logits(artifact.golden.inputs)
    allowed = 0.05 * np.abs(artifact.golden.logits).max()
    assert np.abs(logits - artifact.golden.logits).max() < allowed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_readmes_python_runs_as_printed_and_gives_predicts_answer(
    precision: str, fp32: Artifact, int8: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = (fp32 if precision == "fp32" else int8).path
    pixels = np.random.default_rng(0).integers(0, 256, (40, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.jpg")
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text()
    assert f"output `logits`, {'float32' if precision == 'fp32' else 'int8'} (1, 3)" in text
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    prediction = load(folder).predict(["image.jpg"])[0]
    assert names["labels"][names["logits"].argmax()].partition("\t")[2] == prediction.label
    assert softmax(names["logits"][None]).max() == pytest.approx(prediction.probability, abs=1e-6)


def test_nothing_of_the_converter_is_on_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = small_run(tmp_path / "run", "mobilenet_v1", (0,))
    export(run, to="litert", out=tmp_path)
    assert capfd.readouterr().out == ""


def test_int8_of_an_imported_run_asks_for_images(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "mobilenet_v1", (0,))
    with pytest.raises(InputError, match="give some with --data"):
        export(run, to="litert", precision="int8", out=tmp_path)
    assert not (tmp_path / "litert-int8").exists()


def test_both_kernels_are_asked(int8: Artifact) -> None:
    model = int8.read_model()
    pixels = np.ascontiguousarray(int8.golden.inputs.transpose(0, 2, 3, 1))
    (reference,) = ask_litert(litert_interpreter(model, reference=True), pixels)
    assert reference.dtype == np.int8
    if pytest.importorskip("tflite_micro"):
        assert (ask_tflite_micro(model, pixels) == reference).all()

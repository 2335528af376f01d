"""Features as the second output of an artifact, by every engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import mobilette
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.artifact.golden import golden_inputs, read_golden
from mobilette.cli.main import run as command
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.engines.load import load
from mobilette.engines.targets import why_not_run
from mobilette.errors import InputError
from mobilette.exporters.export import export_calibrated
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.run.directory import Run
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge
from tests.batch_norm import give_statistics
from tests.exporters.networks import FAMILIES
from tests.exporters.small_runs import small_calibration, small_run
from tests.models import model_of

# Each kind of head, for the engines that take long.
HEADS = ("squeezenet1_1", "mobilenet_v3_small")
PACKAGES = {
    "openvino": "openvino",
    "litert": "litert_torch",
    "executorch": "executorch",
    "ncnn": "pnnx",
    "web": "onnxruntime",
}


@pytest.fixture(scope="module")
def with_features(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(trained, features=True, out=tmp_path_factory.mktemp("features"))


def check_features(artifact: Artifact, source: Run | Model) -> None:
    """Assert that the engine's features are those of ``source``, which are not all alike."""
    inputs = artifact.golden.inputs
    expected = load(source).features(inputs)
    answer = load(artifact.path, threads=1).features(inputs)
    assert answer.dtype == np.float32
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()
    np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    assert artifact.golden.features is not None
    # Golden features are the plain network's, the predictor's those of `for_inference`.
    off = np.abs(artifact.golden.features - expected).max()
    assert off <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    settings = Settings(width_mult=FAMILIES[name], resolution=32, num_classes=5)
    torch.manual_seed(0)
    network = Network(get_arch(name, settings))
    images = Normalise(preset("torch"))(torch.from_numpy(golden_inputs(3, 32)))
    give_statistics(network, images)  # random ones would make all features alike
    model = model_of(network)
    artifact = export(model, features=True, out=tmp_path)
    assert artifact.contract.features == "features"
    check_features(artifact, model)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("target", PACKAGES)
def test_every_engine(target: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[target])
    if (reason := why_not_run(target, tmp_path)) is not None:
        pytest.skip(reason)
    run = small_run(tmp_path / "run", name, (0, 1))
    artifact = export(run, to=target, features=True, out=tmp_path)
    check_features(artifact, run)
    verdict = verify(artifact)
    assert verdict.failures == ()
    assert verdict.features_signal_to_noise_db is not None
    assert verdict.features_signal_to_noise_db > 80
    assert "what the classifier reads" in (artifact.path / "README.md").read_text()


def test_coreml_names_both_outputs(tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    run = small_run(tmp_path / "run", "squeezenet1_1", (0, 1))
    artifact = export(run, to="coreml", features=True, out=tmp_path)
    spec = coremltools.utils.load_spec(str(artifact.path / "model.mlpackage"))
    assert [output.name for output in spec.description.output] == ["logits", "features"]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("target", ["onnx", "openvino", "litert", "executorch"])
def test_int8_answers_stay_as_they_were(target: str, name: str, tmp_path: Path) -> None:
    if target != "onnx":
        pytest.importorskip(PACKAGES[target])
        pytest.importorskip("nncf" if target == "openvino" else "torchao")
    run, made = small_run(tmp_path / "run", name, (0, 1)), []
    for features in (False, True):
        options = {"to": target, "precision": "int8", "calibration": small_calibration()}
        options |= {"out": tmp_path / str(features), "features": features}
        if features and (target, name) == ("litert", "squeezenet1_1"):
            with pytest.raises(InputError, match="features of squeezenet1_1 would change its"):
                export_calibrated(run, **options)  # type: ignore[arg-type]
            return
        made.append(export_calibrated(run, **options))  # type: ignore[arg-type]
    inputs = made[0].golden.inputs
    plain, both = (load(artifact.path, threads=1) for artifact in made)
    np.testing.assert_array_equal(both.logits(inputs), plain.logits(inputs))
    verdict = verify(made[1])
    assert verdict.features_signal_to_noise_db is not None
    assert verdict.features_signal_to_noise_db > 10
    assert verify(made[0]).features_signal_to_noise_db is None


def test_what_was_exported_without_features_is_as_before(exported: Artifact) -> None:
    assert "features" not in (exported.path / "contract.json").read_text()
    assert read_golden(exported.path / "golden.npz").features is None
    model = onnx.load(exported.path / "model.onnx")
    assert [output.name for output in model.graph.output] == ["logits"]
    with pytest.raises(InputError, match="without features; 'mobilette export RUN --to onnx --fea"):
        load(exported.path).embed([])


def test_verify_measures_them_on_images(with_features: Artifact, images: Path) -> None:
    verdict = verify(with_features, images)
    assert verdict.passed
    assert verdict.features_signal_to_noise_db is not None
    assert verdict.features_signal_to_noise_db > 80
    assert verdict.to_json()["features_signal_to_noise_db"] == verdict.features_signal_to_noise_db


@pytest.mark.parametrize("images_too", [False, True])
def test_wrong_features_fail(
    images_too: bool, with_features: Artifact, trained: Run, images: Path, tmp_path: Path
) -> None:
    """Only the features are wrong: twice as large."""
    folder = Path(shutil.copytree(with_features.path, tmp_path / "onnx"))
    model = onnx.load(folder / "model.onnx")
    (writer,) = (node for node in model.graph.node if "features" in node.output)
    for node in model.graph.node:
        node.input[:] = ["before" if name == "features" else name for name in node.input]
    writer.output[:] = ["before"]
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "before"], ["features"]))
    forge(folder, {"model.onnx": model.SerializeToString()})
    verdict = verify(folder, images if images_too else None, checkpoint=trained.path)
    assert not verdict.passed
    assert verdict.max_abs_diff < 1e-3
    assert verdict.failures[0].startswith("golden vectors: features differ by up to")
    assert images_too == any(failure.startswith("images: feat") for failure in verdict.failures)


def test_golden_features_that_are_not_the_runs_fail(
    with_features: Artifact, trained: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(with_features.path, tmp_path / "onnx"))
    with np.load(folder / "golden.npz") as content:
        arrays = dict(content)
    np.savez(folder / "golden.npz", **arrays | {"features": arrays["features"] + 1})
    forge(folder)
    failures = " ".join(verify(folder, checkpoint=trained.path).failures)
    assert "golden.npz, by the run: features differ" in failures
    for wrong in (arrays["features"][:, 1:], None):
        changed = {name: value for name, value in arrays.items() if name != "features"}
        np.savez(folder / "golden.npz", **changed | ({} if wrong is None else {"features": wrong}))
        forge(folder)
        with pytest.raises(InputError, match="golden.npz: 256 features per input are expected"):
            verify(folder)


def test_a_model_without_the_output_is_refused(with_features: Artifact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(with_features.path, tmp_path / "onnx"))
    model = onnx.load(folder / "model.onnx")
    del model.graph.output[1]
    forge(folder, {"model.onnx": model.SerializeToString()})
    with pytest.raises(InputError, match="ONNX Runtime failed"):
        load(folder).embed([np.zeros((16, 16, 3), np.uint8)])


def test_targets_that_cannot_are_refused(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tflite_micro")
    with pytest.raises(InputError, match="--to mcu has no second output for --features"):
        export(trained, to="mcu", features=True, out=tmp_path / "out")
    arguments = ["export", str(trained.path), "--to", "state_dict", "--features"]
    assert command([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "have no outputs for --features" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_exports_them(trained: Run, tmp_path: Path) -> None:
    arguments = ["export", str(trained.path), "--features", "--out", str(tmp_path)]
    assert command(arguments) == 0
    artifact = open_artifact(tmp_path / "onnx")
    check_features(artifact, trained)
    pixels = [np.full((20, 30, 3), level, np.uint8) for level in (0, 200)]
    found = mobilette.load(artifact).embed(pixels)
    np.testing.assert_allclose(found, mobilette.load(trained).embed(pixels), atol=1e-4)

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilette.arch.layers import layers
from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import Artifact
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.exporters.calibration import calibration_images
from mobilette.run.directory import Run
from mobilette.run.metrics import softmax
from mobilette.verification.gate import compare
from mobilette.workflows.export import export

pytest.importorskip("openvino")
pytest.importorskip("nncf")

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


@pytest.fixture(scope="module")
def artifacts(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Artifact]:
    folder = tmp_path_factory.mktemp("exports")
    return {each: export(trained, to="openvino", precision=each, out=folder) for each in PRECISIONS}


def test_the_network_is_two_files_with_the_contract_inside(
    artifacts: dict[Precision, Artifact],
) -> None:
    from mobilette.extras import hidden

    with hidden("openvino_telemetry"):
        import openvino
    artifact = artifacts["fp32"]
    assert {file.name for file in artifact.path.iterdir()} == {
        "model.xml",
        "model.bin",
        "labels.txt",
        "contract.json",
        "golden.npz",
        "README.md",
    }
    model = openvino.Core().read_model(artifact.path / "model.xml")
    inside = json.loads(model.get_rt_info(["mobilette.contract"]).astype(str))
    beside = json.loads(artifact.contract.published().to_text())
    assert all(beside[key] == value for key, value in inside.items())
    names = {operation.get_friendly_name() for operation in model.get_ordered_ops()}
    convolutions = {layer.name for layer in layers(artifact.contract.arch) if "conv" in layer.name}
    assert {name for name in convolutions if name.endswith(".conv")} <= names


def test_fp32_weights_are_not_rounded(artifacts: dict[Precision, Artifact]) -> None:
    sizes = {each: (a.path / "model.bin").stat().st_size for each, a in artifacts.items()}
    params = 4 * 200_000  # at least, for V1 x0.25
    assert sizes["fp32"] == sizes["bf16"] > params
    assert sizes["int8"] < sizes["fp32"] / 2


def test_answers_are_the_checkpoints(artifacts: dict[Precision, Artifact], trained: Run) -> None:
    pixels = calibration_images(trained).pixels
    expected = load(trained.path).logits(pixels)
    noise = {}
    for precision, artifact in artifacts.items():
        noise[precision] = compare(load(artifact.path).logits(pixels), expected)
    assert noise["fp32"].top1_agreement == 1.0
    assert all(each.top1_agreement >= 0.95 for each in noise.values())
    assert noise["fp32"].signal_to_noise_db > 80
    assert noise["bf16"].signal_to_noise_db > 5
    assert noise["int8"].signal_to_noise_db > 5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_readmes_python_runs_as_printed(
    precision: Precision, artifacts: dict[Precision, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifacts[precision].path
    pixels = np.random.default_rng(0).integers(0, 256, (40, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.jpg")
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text()
    assert ('"bf16"' in text) == (precision == "bf16")
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    prediction = load(folder).predict(["image.jpg"])[0]
    assert softmax(names["logits"][None]).max() == pytest.approx(prediction.probability, abs=1e-6)


def test_nothing_is_printed_or_reported(trained: Run, tmp_path: Path) -> None:
    """OpenVINO and NNCF report to a web server where `openvino_telemetry` is importable."""
    script = f"""
import os, sys
from pathlib import Path
from mobilette.engines.load import load
from mobilette.exporters.calibration import calibration_images
from mobilette.workflows.export import export
artifact = export({str(trained.path)!r}, to="openvino", precision="int8", out={str(tmp_path)!r})
load(artifact.path)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert not list(Path.home().iterdir())
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_package_is_named(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match=r"nncf.*pip install 'mobilette\[openvino\]'"):
        export(trained, to="openvino", precision="int8", out=tmp_path)

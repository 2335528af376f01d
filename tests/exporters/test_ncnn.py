from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.artifact.contract import Contract, Precision
from mobilette.artifact.directory import Artifact
from mobilette.compression.folding import fold
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.exporters.ncnn import NCNN, write_ncnn
from mobilette.exporters.target import Quantisation, make_contract, no_progress
from mobilette.run.directory import Run
from mobilette.run.subject import Subject
from mobilette.workflows.export import export
from tests.exporters.networks import FAMILIES, odd_model, run_printed, untrained

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


@pytest.fixture(scope="module")
def artifacts(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Artifact]:
    folder = tmp_path_factory.mktemp("ncnn")
    return {each: export(trained, to="ncnn", precision=each, out=folder) for each in PRECISIONS}


def test_the_contract_is_the_last_layers_data(artifacts: dict[Precision, Artifact]) -> None:
    folder = artifacts["fp32"].path
    assert {file.name for file in folder.iterdir()} >= {"model.ncnn.param", "model.ncnn.bin"}
    kind, name, *_, words = (folder / "model.ncnn.param").read_text().split("\n")[-2].split()
    assert (kind, name) == ("MemoryData", "mobilette.contract")
    data = (folder / "model.ncnn.bin").read_bytes()[-4 * int(words.removeprefix("0=")) :]
    beside = json.loads(artifacts["fp32"].contract.published().to_text())
    assert all(beside[key] == value for key, value in json.loads(data).items())


def test_fp16_halves_the_weights(artifacts: dict[Precision, Artifact]) -> None:
    fp32, fp16 = ((artifacts[each].path / "model.ncnn.bin").stat().st_size for each in PRECISIONS)
    assert fp16 < 0.55 * fp32


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 0.02)])
def test_the_readmes_python_gives_predicts_answer(
    precision: Precision, allowed: float, artifacts: dict[Precision, Artifact]
) -> None:
    artifact = artifacts[precision]
    label, logits = run_printed(artifact.path)
    predictor = load(artifact.path)
    assert predictor.predict([artifact.path / "image.jpg"])[0].label == label
    golden = artifact.golden
    off = np.abs(predictor.logits(golden.inputs) - golden.logits).max()
    assert off < allowed * np.abs(golden.logits).max()
    assert logits.shape == (3,)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    run = untrained(name, tmp_path / "run")
    artifact = export(run, to="ncnn", out=tmp_path)
    golden = artifact.golden
    answers = load(artifact.path, threads=1).logits(golden.inputs)
    np.testing.assert_allclose(answers, golden.logits, atol=1e-4 * np.abs(golden.logits).max())


def test_grey_images(tmp_path: Path) -> None:
    run = untrained("resnet20", tmp_path / "run", in_channels=1)
    artifact = export(run, to="ncnn", out=tmp_path)
    answers = load(artifact.path, threads=1).logits(artifact.golden.inputs)
    np.testing.assert_allclose(answers, artifact.golden.logits, atol=1e-4)
    run_printed(artifact.path)


def test_nothing_is_printed_or_left_behind(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "here"))
    artifact = export(trained, to="ncnn", out=tmp_path)
    load(artifact.path, threads=1).logits(artifact.golden.inputs)
    assert list((tmp_path / "here").iterdir()) == []
    assert tuple(capfd.readouterr()) == ("", "")


def contract_of(run: Run, folder: Path, target: Any) -> Contract:
    return make_contract(
        Subject(run.model, run),
        target,
        precision="fp32",
        calibration=None,
        quantisation=Quantisation(),
        final=folder,
    )


def test_an_operator_that_ncnn_has_not_is_named_with_its_layer(
    trained: Run, tmp_path: Path
) -> None:
    model, contract = odd_model(fold(trained.model)), contract_of(trained, tmp_path, NCNN)
    with pytest.raises(
        InputError, match=r"special_bessel_j0 \(layer odd\) is not supported by ncnn; use --to onnx"
    ):
        write_ncnn(model, contract, None, no_progress)

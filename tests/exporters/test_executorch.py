from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import Artifact
from mobilette.compression.folding import fold
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.exporters.executorch import (
    BATCH,
    EXECUTORCH,
    MIXED,
    _kernels_for_all,
    write_executorch,
)
from mobilette.exporters.program import export_program
from mobilette.exporters.target import Quantisation, make_contract, no_progress
from mobilette.run.directory import Run
from mobilette.run.subject import Subject
from mobilette.workflows.export import export
from tests.exporters.networks import odd_model, run_printed

pytest.importorskip("executorch")
pytest.importorskip("torchao")

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@pytest.fixture(scope="module")
def artifacts(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Artifact]:
    folder = tmp_path_factory.mktemp("executorch")
    return {
        each: export(trained, to="executorch", precision=each, out=folder) for each in PRECISIONS
    }


def test_the_program_is_one_file_with_the_contract_inside(
    artifacts: dict[Precision, Artifact],
) -> None:
    from mobilette.silence import silence

    folder = artifacts["int8"].path
    with silence():
        from executorch.extension.pybindings import portable_lib

        content = (folder / "model.pte").read_bytes()
        program = portable_lib._load_for_executorch_from_buffer(content)
        (text,) = program.run_method("mobilette.contract", ())
    inside = json.loads(bytes(text.numpy()))
    beside = json.loads(artifacts["int8"].contract.published().to_text())
    assert all(beside[key] == value for key, value in inside.items())
    assert inside["calibration"]["images"] == 96
    assert {file.name for file in folder.iterdir()} == {
        "model.pte",
        "labels.txt",
        "contract.json",
        "golden.npz",
        "README.md",
    }


def test_int8_weights_take_a_quarter(artifacts: dict[Precision, Artifact]) -> None:
    fp32, int8 = ((artifacts[each].path / "model.pte").stat().st_size for each in PRECISIONS)
    assert int8 < 0.4 * fp32


@pytest.mark.parametrize(("precision", "allowed", "others"), [("fp32", 1e-5, 0), ("int8", 0.25, 3)])
def test_the_readmes_python_gives_predicts_answer(
    precision: Precision,
    allowed: float,
    others: int,
    artifacts: dict[Precision, Artifact],
    trained: Run,
    images: Path,
) -> None:
    artifact = artifacts[precision]
    label, logits = run_printed(artifact.path)
    predictor = load(artifact.path)
    assert predictor.predict([artifact.path / "image.jpg"])[0].label == label
    assert logits.shape == (3,)
    paths = sorted(images.glob("*/?.png"))
    ours, theirs = predictor.predict(paths), load(trained.path).predict(paths)
    pairs = list(zip(ours, theirs, strict=True))
    same = [(mine, other) for mine, other in pairs if mine.label == other.label]
    assert len(pairs) - len(same) <= others
    assert np.mean([abs(mine.probability - other.probability) for mine, other in same]) <= allowed


def test_an_operator_that_executorch_has_not_is_named_with_its_layer(
    trained: Run, tmp_path: Path
) -> None:
    contract = make_contract(
        Subject(trained.model, trained),
        EXECUTORCH,
        precision="fp32",
        calibration=None,
        quantisation=Quantisation(),
        final=tmp_path,
    )
    with pytest.raises(
        InputError,
        match=r"special_bessel_j0.* \(layer odd\) is not supported by executorch; use --to onnx",
    ):
        write_executorch(odd_model(fold(trained.model)), contract, None, no_progress)


def test_the_engine_prints_nothing(artifacts: dict[Precision, Artifact]) -> None:
    path = artifacts["fp32"].path
    code = (
        "import sys; from mobilette.engines.load import load; "
        "p = load(sys.argv[1], threads=1); p.logits(p.artifact.golden.inputs)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_exporter_prints_nothing(
    trained: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export(trained, to="executorch", out=tmp_path)
    assert tuple(capfd.readouterr()) == ("", "")


def test_layers_in_float_that_xnnpack_cannot_mix_are_refused(
    trained: Run,
) -> None:
    """V3-Small with eight layers in float; the ladder goes on where one is refused."""
    program = export_program(fold(trained.model), batch=BATCH)
    refusal = pytest.raises(InputError, match="no int8 kernel behind these float layers")
    with refusal, _kernels_for_all(program):
        raise RuntimeError(MIXED)

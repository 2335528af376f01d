from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.run.directory import Run
from mobilette.run.metrics import softmax
from mobilette.workflows.export import export


def test_the_model_file_is_one_file_with_the_contract_inside(exported: Artifact) -> None:
    model = onnx.load(exported.path / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    inside = json.loads({p.key: p.value for p in model.metadata_props}["mobilette.contract"])
    beside = json.loads(exported.contract.published().to_text())
    assert [label["id"] for label in inside["classes"]] == ["blue", "green", "red"]
    assert all(beside[key] == value for key, value in inside.items())
    assert {file.name for file in exported.path.iterdir()} == {
        "model.onnx",
        "labels.txt",
        "contract.json",
        "golden.npz",
        "README.md",
    }


GEOMETRIES = (
    {"resize": "crop", "interpolation": "bicubic", "crop_fraction": 0.875},
    {"resize": "crop"},
    {"resize": "squash"},
    {"resize": "pad"},
)


@pytest.fixture(scope="module", params=GEOMETRIES)
def exported_with(
    request: pytest.FixtureRequest, trained: Run, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder = tmp_path_factory.mktemp(request.param["resize"])
    shutil.copytree(trained.path, folder / "run")
    path = folder / "run" / "preprocess.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | request.param))
    (folder / "run" / "answering.json").write_text('{"temperature": 1.7}')
    return export(folder / "run", out=folder)


@pytest.mark.parametrize("size", [(16, 16), (40, 17), (17, 40), (50, 33), (8, 5)])
def test_the_readmes_python_runs_as_printed_and_gives_predicts_answer(
    exported_with: Artifact,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = exported_with.path
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.jpg")
    monkeypatch.chdir(folder)
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    prediction = load(folder).predict(["image.jpg"])[0]
    assert names["labels"][names["logits"].argmax()].partition("\t")[2] == prediction.label
    # Once, and not beside its id.
    assert capsys.readouterr().out == f"{prediction.label} {prediction.probability:.1%}\n"
    assert names["probabilities"].max() == pytest.approx(prediction.probability, abs=1e-6)
    given = softmax(names["logits"][None], temperature=1.7).max()
    assert given == pytest.approx(prediction.probability, abs=1e-9)


def test_existing_artifacts_are_kept_unless_forced(trained: Run, tmp_path: Path) -> None:
    export(trained, out=tmp_path)
    with pytest.raises(InputError, match="exists; give another --out, or --force"):
        export(trained, out=tmp_path)
    (tmp_path / "onnx" / "README.md").write_text("changed")
    export(trained, out=tmp_path, force=True)
    assert (tmp_path / "onnx" / "README.md").read_text() != "changed"
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_an_unknown_target_offers_the_nearest(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="target 'onxx' is not one of onnx, .*; did you mean 'onnx'"
    ):
        export(trained, to="onxx", out=tmp_path)


def test_a_run_without_weights_leaves_nothing(run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "best.safetensors").unlink()
    with pytest.raises(InputError, match="best.safetensors: missing; .mobilette train --resume"):
        export(run_copy, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()

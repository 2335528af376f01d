"""`verify` on real artifacts: one that is right, and ones that are wrong in every known way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mobilette.artifact.contract import Contract, canonical
from mobilette.artifact.directory import Artifact
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.records import parse
from mobilette.run.directory import Run
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from tests.conftest import write_pictures


def test_a_faithful_artifact_passes(exported: Artifact, pictures: Path) -> None:
    verdict = verify(exported.path, pictures)
    assert verdict.passed
    assert verdict.failures == verdict.notes == ()
    assert verdict.max_abs_diff < 1e-3
    assert verdict.top1_agreement == 1.0
    assert verdict.accuracy_source == verdict.accuracy_artifact
    assert verdict.images == 120


def test_without_pictures_golden_vectors_are_compared(exported: Artifact) -> None:
    verdict = verify(exported.path)
    assert verdict.passed
    assert verdict.images == 0
    assert verdict.notes == ("no pictures given: golden vectors only",)


def test_without_the_checkpoint_golden_vectors_are_compared_and_it_is_said(
    artifact_copy: Path, trained: Run, pictures: Path
) -> None:
    verdict = verify(artifact_copy, pictures)
    assert verdict.passed
    assert verdict.accuracy_source is None
    assert verdict.accuracy_artifact is not None
    assert verdict.accuracy_artifact > 0.9
    assert "golden vectors only (--from RUN names it)" in verdict.notes[0]
    with pytest.raises(InputError, match="no such folder"):
        verify(artifact_copy, pictures / "typo")
    assert verify(artifact_copy, pictures, checkpoint=trained.path).images == 120


def test_a_run_that_was_trained_again_is_not_the_checkpoint(
    artifact_copy: Path, run_copy: Path, pictures: Path
) -> None:
    content = bytearray((run_copy / "best.safetensors").read_bytes())
    content[-1] ^= 1
    (run_copy / "best.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not the weights that the artifact was made from"):
        verify(artifact_copy, pictures, checkpoint=run_copy)


def forge(folder: Path, change: Callable[[onnx.ModelProto], None], **contract: object) -> None:
    """Change the model, or the contract, and make every hash and the inner contract fit again."""
    path = folder / "contract.json"
    old = parse(Contract, json.loads(path.read_text()), where="contract")
    forged = replace(old, **contract)  # type: ignore[arg-type]
    model = onnx.load(folder / "model.onnx")
    change(model)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = "mobilette.contract", canonical(forged.embedded())
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    files = dict(old.files or {}) | {"model.onnx": sha256(content).hexdigest()}
    forged = replace(forged, files=files)
    path.write_text(json.dumps(replace(forged, sha256=forged.own_sha256()).to_json()))


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (found,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    assert isinstance(found, onnx.TensorProto)
    return found


def swap_colours(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "normalise.weight")
    matrix = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(matrix[:, ::-1].copy(), tensor.name))


def forget_the_mean(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "normalise.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), tensor.name))


def permute_the_classes(model: onnx.ModelProto) -> None:
    for name in ("head.classifier.weight", "head.classifier.bias"):
        tensor = _tensor(model, name)
        rows = numpy_helper.to_array(tensor)[::-1].copy()
        tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))


def answer_nothing(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "head.classifier.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), tensor.name))


@pytest.mark.parametrize(
    ("change", "classes_move"),
    [
        (swap_colours, False),  # a network may know these classes without the colours
        (forget_the_mean, False),
        (permute_the_classes, True),
        (answer_nothing, True),
    ],
)
def test_a_model_that_answers_differently_fails(
    artifact_copy: Path,
    trained: Run,
    pictures: Path,
    change: Callable[[onnx.ModelProto], None],
    classes_move: bool,
) -> None:
    forge(artifact_copy, change)
    verdict = verify(artifact_copy, pictures, checkpoint=trained.path)
    assert not verdict.passed
    assert "golden vectors: logits differ" in verdict.failures[0]
    if classes_move:
        assert any("agreement" in failure for failure in verdict.failures)


def test_a_contract_with_other_preprocessing_fails_on_real_files(
    artifact_copy: Path, trained: Run, tmp_path: Path
) -> None:
    """The golden vectors cannot see it: geometry is outside the graph."""
    from PIL import Image

    preprocess = replace(trained.preprocess, crop_fraction=0.2)
    forge(artifact_copy, lambda model: None, preprocess=preprocess)
    for colour, (centre, border) in {
        "red": ((200, 50, 40), (40, 60, 200)),
        "blue": ((40, 60, 200), (50, 180, 60)),
    }.items():
        (tmp_path / "set" / colour).mkdir(parents=True)
        for index in range(5):
            image = Image.new("RGB", (160, 160), border)
            image.paste(centre, (64, 64, 96, 96))
            image.save(tmp_path / "set" / colour / f"{index}.png")
    verdict = verify(artifact_copy, tmp_path / "set", checkpoint=trained.path)
    assert not verdict.passed
    assert all("golden" not in failure for failure in verdict.failures)


def test_pictures_that_cannot_be_read_are_said(exported: Artifact, tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set", 10)
    (root / "red" / "text.jpg").write_text("no picture")
    verdict = verify(exported.path, root)
    assert verdict.images == 30
    assert verdict.notes == (
        "1 pictures left out; the first is red/text.jpg: "
        "not a picture (JPEG, PNG, BMP, GIF, TIFF, WEBP, PPM are read)",
    )
    left_out: list[str] = []
    evaluate(load(exported.path), root, on_unusable=lambda name, reason: left_out.append(name))
    assert left_out == ["red/text.jpg"]


def test_evaluate_agrees_with_the_runs_own_validation(trained: Run, pictures: Path) -> None:
    best = max(trained.history(), key=lambda row: row["top1"])
    metrics = evaluate(load(trained.path), pictures, split="val")
    assert metrics.images == 24
    assert metrics.top1 == pytest.approx(best["top1"], abs=1e-6)


def test_classes_are_matched_by_id(trained: Run, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "red", tmp_path / "part" / "red")
    shutil.copytree(pictures / "green", tmp_path / "part" / "green")
    metrics = evaluate(load(trained.path), tmp_path / "part")
    assert metrics.top1 > 0.9
    assert set(metrics.per_class) == {"red", "green"}
    (tmp_path / "part" / "green").rename(tmp_path / "part" / "greem")
    with pytest.raises(InputError, match="class 'greem' is none of the model's 3 .*'green'"):
        evaluate(load(trained.path), tmp_path / "part")

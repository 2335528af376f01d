"""`verify` on real artifacts: one that is right, and ones that are wrong in every known way."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.model.classes import ClassLabel, classes_text
from mobilette.progress import Reporter
from mobilette.run.directory import Run
from mobilette.verification.evaluate import evaluate
from mobilette.verification.verify import verify
from mobilette.workflows.export import export
from tests.artifact.forging import forge
from tests.conftest import write_images
from tests.verification.forged_models import (
    Change,
    answer_nothing,
    forge_model,
    forget_the_mean,
    normalise_as_tf,
    nothing,
    permute_the_classes,
    swap_colours,
)


def test_a_faithful_artifact_passes(exported: Artifact, images: Path) -> None:
    verdict = verify(exported.path, images, include_trained=True)
    assert verdict.passed
    assert verdict.failures == verdict.notes == ()
    assert verdict.max_abs_diff < 1e-3
    assert verdict.top1_agreement == 1.0
    assert verdict.accuracy_source == verdict.accuracy_artifact
    assert verdict.images == 120
    assert verdict.readme_images == 16
    assert (verdict.target, verdict.precision, verdict.engine) == ("onnx", "fp32", "ONNX Runtime")
    assert verdict.signal_to_noise_db > 90
    assert verdict.calibration_error_source is not None
    assert verdict.calibration_error_artifact == pytest.approx(
        verdict.calibration_error_source, abs=1e-6
    )
    low, high = verdict.interval_artifact or (math.nan, math.nan)
    assert 0.9 < low < (verdict.accuracy_artifact or 0) <= high <= 1
    assert verdict.to_json()["interval_artifact"] == (low, high)


def test_without_images_golden_vectors_are_compared(exported: Artifact) -> None:
    verdict = verify(exported.path)
    assert verdict.passed
    assert verdict.images == 0
    assert verdict.notes == ("no images given: golden vectors only",)


def test_without_the_checkpoint_golden_vectors_are_compared_and_it_is_said(
    artifact_copy: Path, trained: Run, images: Path
) -> None:
    verdict = verify(artifact_copy, images)
    assert verdict.passed
    assert verdict.accuracy_source is None
    assert verdict.accuracy_artifact is not None
    assert verdict.accuracy_artifact > 0.9
    assert "golden vectors only (--from RUN names it)" in verdict.notes[0]
    with pytest.raises(InputError, match="no such folder"):
        verify(artifact_copy, images / "typo")
    assert any("was trained on is not known" in note for note in verdict.notes)
    verdict = verify(artifact_copy, images, checkpoint=trained.path)
    assert (verdict.images, verdict.trained_left_out, verdict.includes_trained) == (24, 96, False)


def test_a_run_that_was_trained_again_is_not_the_checkpoint(
    artifact_copy: Path, run_copy: Path, images: Path
) -> None:
    content = bytearray((run_copy / "best.safetensors").read_bytes())
    content[-1] ^= 1
    (run_copy / "best.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not the weights that the artifact was made from"):
        verify(artifact_copy, images, checkpoint=run_copy)


@pytest.mark.parametrize(
    ("change", "mistake", "classes_move"),
    [
        # a network may know these classes without the colours
        (swap_colours, "colour order: it takes its colours in the opposite order", False),
        (forget_the_mean, "mean and std: it answers as with a mean of 0", False),
        (normalise_as_tf, "mean and std: it answers as with those of the preset 'tf'", False),
        (
            permute_the_classes,
            "class order: the logits are in another order than the labels; "
            "the logit of 'blue' is where 'red' belongs",
            True,
        ),
        (answer_nothing, None, True),
    ],
)
def test_a_model_that_answers_differently_fails_and_it_is_said_how(
    artifact_copy: Path,
    trained: Run,
    images: Path,
    change: Change,
    mistake: str | None,
    classes_move: bool,
) -> None:
    forge_model(artifact_copy, change)
    verdict = verify(artifact_copy, images, checkpoint=trained.path)
    assert not verdict.passed
    first, *others = verdict.failures
    assert first.startswith("golden vectors: logits differ")
    named = [line for line in others if "order: " in line or "mean and std: " in line]
    assert len(named) == (mistake is not None)
    assert all(line.startswith(mistake or "") for line in named)
    if classes_move:
        assert any("agreement" in failure for failure in verdict.failures)


CLASSES = tuple(ClassLabel(id=name, name=name) for name in ("red", "green", "blue"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": CLASSES}, "the order of the classes is not the run's; number 1 is 'red'"),
        (
            {"classes": (ClassLabel(id="bleu", name="blue"), *CLASSES[1::-1])},
            "contract.json: classes is not the run's; number 1 is 'bleu', the run's is 'blue'",
        ),
        ({"outputs": "sigmoid"}, "outputs is sigmoid, the run's is softmax"),
    ],
)
def test_a_contract_that_is_forged_inside_and_outside_is_not_the_runs(
    artifact_copy: Path, trained: Run, changes: dict[str, Any], message: str
) -> None:
    labels = changes.get("classes", trained.classes)
    (artifact_copy / "labels.txt").write_text(classes_text(labels))
    forge_model(artifact_copy, nothing, **changes)
    verdict = verify(artifact_copy, checkpoint=trained.path)
    assert not verdict.passed
    assert [failure for failure in verdict.failures if message in failure]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (127.5, 127.5, 127.5)}, "preprocess.mean is (127.5, 127.5, 127.5), the run's"),
        ({"std": (1.0, 1.0, 1.0)}, "preprocess.std is (1, 1, 1), the run's is ("),
        ({"colour": "bgr"}, "preprocess.colour is bgr, the run's is rgb"),
    ],
)
def test_preprocessing_that_was_forged(
    artifact_copy: Path, trained: Run, changes: dict[str, Any], message: str
) -> None:
    """Beside the model only, its own copy disagrees; in both, the run does."""
    (key,) = changes
    preprocess = replace(trained.preprocess, **changes)
    forge(artifact_copy, preprocess=preprocess)
    with pytest.raises(InputError, match=rf"differs from contract\.json in preprocess\.{key}$"):
        verify(artifact_copy, checkpoint=trained.path)
    forge_model(artifact_copy, nothing, preprocess=preprocess)
    verdict = verify(artifact_copy, checkpoint=trained.path)
    assert not verdict.passed
    assert [failure for failure in verdict.failures if message in failure]


def test_labels_forged_with_the_contract_beside_the_model(artifact_copy: Path) -> None:
    (artifact_copy / "labels.txt").write_text(classes_text(CLASSES))
    forge(artifact_copy, classes=CLASSES)
    with pytest.raises(InputError, match=r"inside the model differs from contract\.json in class"):
        verify(artifact_copy)


def test_golden_vectors_that_were_forged(artifact_copy: Path, trained: Run) -> None:
    """Made to fit a model that is wrong: the checkpoint still knows better."""
    forge_model(artifact_copy, swap_colours)
    artifact = open_artifact(artifact_copy)
    answers = load(artifact_copy).logits(artifact.golden.inputs)
    forge(artifact_copy, {"golden.npz": replace(artifact.golden, logits=answers).to_bytes()})
    assert verify(artifact_copy).passed
    verdict = verify(artifact_copy, checkpoint=trained.path)
    assert not verdict.passed
    assert "golden.npz: not what the checkpoint answers (logits differ" in verdict.failures[0]


def test_bytes_of_the_model_that_were_forged_to_nonsense(artifact_copy: Path) -> None:
    content = (artifact_copy / "model.onnx").read_bytes()
    forge(artifact_copy, {"model.onnx": content[: len(content) // 2]})
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime does not accept it"):
        verify(artifact_copy)


def test_a_contract_with_other_preprocessing_fails_on_real_files(
    artifact_copy: Path, trained: Run, tmp_path: Path
) -> None:
    """The golden vectors cannot see it: geometry is outside the graph."""
    from PIL import Image

    preprocess = replace(trained.preprocess, crop_fraction=0.2)
    forge_model(artifact_copy, nothing, preprocess=preprocess)
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
    assert "preprocess.crop_fraction is 0.2, the run's is 1.0" in verdict.failures[0]
    assert any("top-1 agreement" in failure for failure in verdict.failures)
    assert all("golden" not in failure for failure in verdict.failures)


def test_images_that_cannot_be_read_are_said(exported: Artifact, tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 10)
    (root / "red" / "text.jpg").write_text("no image")
    verdict = verify(exported.path, root, include_trained=True)
    assert verdict.images == 30
    (note,) = verdict.notes
    assert note.startswith("1 images left out; the first is red/text.jpg: not an image (JPEG, ")
    left_out: list[str] = []
    evaluate(load(exported.path), root, reporter=Reporter(remark=left_out.append))
    (line,) = left_out
    assert line.startswith("left out: red/text.jpg: not an image")


def test_evaluate_agrees_with_the_runs_own_validation(trained: Run, images: Path) -> None:
    best = max(trained.history(), key=lambda row: row["top1"])
    metrics = evaluate(load(trained.path), images, split="val")
    assert metrics.images == 24
    assert metrics.top1 == pytest.approx(best["top1"], abs=1e-6)


def test_classes_are_matched_by_id(trained: Run, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "red", tmp_path / "part" / "red")
    shutil.copytree(images / "green", tmp_path / "part" / "green")
    metrics = evaluate(load(trained.path), tmp_path / "part")
    assert metrics.images == 16  # two classes, without those that it was trained on
    assert metrics.top1 > 0.9
    assert set(metrics.per_class) == {"red", "green"}
    (tmp_path / "part" / "green").rename(tmp_path / "part" / "greem")
    with pytest.raises(InputError, match="class 'greem' is none of the model's 3 .*'green'"):
        evaluate(load(trained.path), tmp_path / "part")


def test_a_mistake_in_how_the_checkpoint_is_made_fast_is_found(
    trained: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden vectors are answers of the plain network, so they do not share it."""

    def forgets_the_means(*tensors: Any) -> Any:
        weight, bias, mean, *others = tensors
        return fuse_conv_bn_weights(weight, bias, torch.zeros_like(mean), *others)

    monkeypatch.setattr("mobilette.nn.inference.fuse_conv_bn_weights", forgets_the_means)
    exported = export(trained, out=tmp_path / "artifact")
    failures = verify(exported.path, images).failures
    assert any("golden.npz: not what the checkpoint answers" in each for each in failures)

"""What is exported, verified, evaluated and asked: a run, its folder, a model or a network."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mobilette
from mobilette.artifact.directory import Artifact
from mobilette.errors import InputError
from mobilette.model.model import Model, Origin
from mobilette.nn.network import Network
from mobilette.run.directory import Run
from mobilette.verification.bench import bench


@pytest.fixture(scope="module")
def loose(trained: Run) -> Model:
    """A model that is in no run: other weights than those of the run it is from."""
    weights = {name: tensor.clone() for name, tensor in trained.model.weights.items()}
    weights["head.classifier.bias"] += 1
    return replace(trained.model, weights=weights)


@pytest.fixture(scope="module")
def loose_artifact(loose: Model, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return mobilette.export(loose, out=tmp_path_factory.mktemp("loose"))


def test_a_model_read_from_a_run_is_exported_as_the_run(
    trained: Run, exported: Artifact, tmp_path: Path
) -> None:
    artifact = mobilette.export(Model.load(trained.path), out=tmp_path)
    source = artifact.contract.source
    assert source.weights_sha256 == exported.contract.source.weights_sha256
    assert artifact.source == trained.path.resolve()
    assert artifact.contract.measured == exported.contract.measured


def test_the_model_of_an_artifact_is_the_one_it_was_made_from(
    trained: Run, exported: Artifact
) -> None:
    ours, theirs = exported.model, trained.model
    assert (ours.arch, ours.classes) == (theirs.arch, theirs.classes)
    assert all(torch.equal(ours.weights[name], each) for name, each in theirs.weights.items())


def test_a_model_in_no_run_names_none(
    loose: Model, loose_artifact: Artifact, images: Path, tmp_path: Path
) -> None:
    assert loose_artifact.contract.source.run == ""
    with pytest.raises(InputError, match="made from a model that was in no run"):
        _ = loose_artifact.model
    verdict = mobilette.verify(loose_artifact)
    assert verdict.passed
    assert "golden vectors only" in verdict.notes[0]
    verdict = mobilette.verify(loose_artifact, images, checkpoint=loose)
    assert verdict.passed
    assert verdict.accuracy_source is not None
    saved = loose.save(tmp_path / "saved")
    assert mobilette.verify(loose_artifact, checkpoint=saved).passed


def test_another_model_is_refused(trained: Run, loose_artifact: Artifact) -> None:
    with pytest.raises(InputError, match="not the weights that the artifact was made from"):
        mobilette.verify(loose_artifact, checkpoint=trained)


def test_everything_is_evaluated_and_asked_alike(
    trained: Run, exported: Artifact, images: Path
) -> None:
    subjects = (trained, trained.path, trained.model, exported, mobilette.load(trained.model))
    assert len({mobilette.evaluate(each, images).top1 for each in subjects}) == 1
    pixels = exported.golden.inputs
    answers = mobilette.load(trained.model).logits(pixels)
    assert np.array_equal(answers, mobilette.load(trained).logits(pixels))
    assert np.allclose(answers, mobilette.load(exported).logits(pixels), atol=1e-3)


def test_the_predictor_of_a_model_can_be_pickled(loose: Model) -> None:
    predictor = mobilette.load(loose)
    pixels = np.zeros((1, *loose.arch.shape), np.uint8)
    again = pickle.loads(pickle.dumps(predictor))
    assert np.array_equal(again.logits(pixels), predictor.logits(pixels))


def test_a_network_trained_elsewhere(trained: Run, tmp_path: Path) -> None:
    network = Network(trained.arch).eval()
    with pytest.raises(InputError, match="give preprocess="):
        mobilette.export(network, out=tmp_path)
    count = trained.arch.num_classes
    names = [f"class {number}" for number in range(count)]
    artifact = mobilette.export(network, out=tmp_path, preprocess=trained.preprocess, classes=names)
    assert [label.name for label in artifact.contract.classes] == names
    assert mobilette.verify(artifact).passed
    network.preprocess = trained.preprocess  # type: ignore[assignment]
    artifact = mobilette.export(network, out=tmp_path, force=True)
    assert artifact.contract.classes[0].id == "0"


def test_what_cannot_be_exported(loose: Model, exported: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images to calibrate int8"):
        mobilette.export(loose, precision="int8", out=tmp_path)
    with pytest.raises(InputError, match="--data names images to calibrate int8 with"):
        mobilette.export(loose, data="photos", out=tmp_path)
    with pytest.raises(InputError, match="an artifact, not a run; give the run it was made from"):
        mobilette.export(exported.path, out=tmp_path)
    with pytest.raises(InputError, match="are for a Network"):
        mobilette.export(loose, classes=["a"], out=tmp_path)
    network = Network(loose.arch).eval()
    for classes, message in (("abc", "not a list of names"), (["a"] * 3, "'a' occurs twice")):
        with pytest.raises(InputError, match=message):
            mobilette.export(network, preprocess=loose.preprocess, classes=classes, out=tmp_path)
    broken = dict(loose.weights)
    broken["stem.conv.weight"] = torch.full_like(broken["stem.conv.weight"], torch.inf)
    with pytest.raises(InputError, match="not finite"):
        mobilette.export(replace(loose, weights=broken), out=tmp_path)
    headless = replace(loose, has_classifier=False, origin=Origin(name="x", source="somewhere"))
    with pytest.raises(InputError, match="somewhere: .*without a classifier"):
        mobilette.export(headless, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_is_timed(trained: Run) -> None:
    (row,) = bench(trained.model, rounds=1, seconds=0.01).rows
    assert (row.artifact, row.target) == ("mobilenet_v1", None)
    assert row.latency_ms is not None, row.reasons

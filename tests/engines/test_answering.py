"""Every engine makes the same probabilities of its logits as the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mobilette.artifact.directory import is_artifact, read_contract
from mobilette.engines.load import load
from mobilette.files import write_json
from mobilette.model.directory import ANSWERING
from mobilette.run.directory import Run, open_run
from mobilette.run.metrics import softmax
from mobilette.workflows.train import train
from tests.artifact.forging import forge

TEMPERATURE = 2.5


def test_probabilities_are_those_of_the_checkpoint(
    model: Path, trained: Run, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    rounded = False
    if is_artifact(copy):
        forge(copy, temperature=TEMPERATURE)
        rounded = read_contract(copy / "contract.json").precision == "int8"
    else:
        write_json(copy / ANSWERING, {"temperature": TEMPERATURE})
    predictor, pixels = load(copy), np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3))
    answers = predictor.predict(pixels.astype(np.uint8))
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.uint8)
    source = predictor if rounded else load(trained.path)
    expected = softmax(source.logits(planes), temperature=TEMPERATURE)
    for answer, row in zip(answers, expected, strict=True):
        given = [guess.probability for guess in answer.top]
        assert given == pytest.approx(sorted(row, reverse=True), abs=1e-4)


def test_a_training_leaves_a_temperature(tmp_path: Path) -> None:
    run = train(
        "digits",
        model="mobilenet_v1",
        width_mult=0.25,
        overrides={"epochs": 2},
        out=tmp_path / "run",
    )
    assert run.answering == open_run(run.path).answering == run.model.answering
    assert run.answering.temperature != 1.0
    saved = run.model.save(tmp_path / "saved")
    assert open_run(saved).answering == run.answering

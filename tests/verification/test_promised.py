"""Calibration and promises in a verdict, against counts by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilette.cli.verdict import verdict_rows
from mobilette.engines.answers import Prediction
from mobilette.engines.load import load
from mobilette.model.answering import PLAIN, Answering, Known, Promise
from mobilette.run.answers import answered
from mobilette.run.directory import Run
from mobilette.run.metrics import wilson_interval
from mobilette.verification.promised import measure_promise
from mobilette.verification.statistics import calibration_error
from mobilette.verification.verify import verify
from tests.artifact.forging import forge
from tests.cli.test_cli import Capture, in_this_process


def _answering(threshold: float, temperature: float = 1.0, **more: Known) -> Answering:
    promise = Promise(
        error=0.25, confidence=0.95, threshold=threshold, coverage=0.5, pictures=100, split="val"
    )
    return Answering(temperature=temperature, promise=promise, **more)


def _logits(*probabilities: float) -> NDArray[np.float32]:
    """Return logits whose first of two classes has these probabilities."""
    return np.log([[each, 1 - each] for each in probabilities]).astype(np.float32)


def test_an_answer_is_given_from_the_threshold_on() -> None:
    logits = _logits(0.6, 0.8, 0.9, 0.1)
    assert answered(logits, PLAIN).all()
    assert answered(logits, _answering(0.79)).tolist() == [False, True, True, True]
    hot = _answering(0.79, temperature=2)  # 0.8 becomes 2/3, 0.9 becomes 3/4
    assert not answered(logits, hot).any()
    broken = np.array([[np.nan, 0], [np.inf, 0]], np.float32)
    assert not answered(broken, _answering(0.0)).any()
    assert not answered(broken, PLAIN).any()


def test_an_image_unlike_the_known_ones_is_not_answered() -> None:
    known = Known(score="energy", threshold=1.0, kept=0.95, pictures=100, split="val")
    logits = np.array([[0.0, 0.0], [0.5, 0.0], [5.0, 0.0]], np.float32)  # log 2 = 0.69, 0.97, 5.0
    given = answered(logits, _answering(0.0, known=known))
    assert given.tolist() == [False, False, True]


def test_several_classes_are_answered_by_the_most_probable() -> None:
    logits = np.array([[2.0, 2.0], [0.1, -1.0]], np.float32)  # each sigmoid is of its own
    assert answered(logits, _answering(0.85), multi_label=True).tolist() == [True, False]
    assert not answered(logits, _answering(0.85)).any()


def test_coverage_and_error_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 0])
    found = measure_promise(_logits(0.9, 0.95, 0.85, 0.1, 0.6), labels, _answering(0.8))
    assert found is not None
    assert (found.promised, found.answered, found.coverage) == (0.25, 4, 0.8)
    assert found.error == 0.25
    assert found.interval == wilson_interval(0.25, 4)
    nobody = measure_promise(_logits(0.6, 0.7), np.array([0, 0]), _answering(0.99))
    assert nobody is not None
    assert (nobody.answered, nobody.error, nobody.interval) == (0, None, (0.0, 1.0))
    assert measure_promise(_logits(0.9), np.array([0]), PLAIN) is None


def test_the_calibration_error_after_the_temperature_is_that_of_divided_logits() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (500, 4)).astype(np.float32)
    labels = random.integers(0, 4, 500)
    divided = calibration_error(logits / np.float32(4), labels)
    assert calibration_error(logits, labels, temperature=4.0) == pytest.approx(divided, abs=1e-6)


def test_each_side_keeps_its_own_promise(
    artifact_copy: Path, trained: Run, images: Path, capsys: Capture
) -> None:
    hot = forge(artifact_copy, temperature=3.0)
    files = sorted(images.rglob("*.png"))
    answers = [each for each in load(hot.path).predict_each(files) if isinstance(each, Prediction)]
    # Whatever the training gave, half of the images are answered.
    half = float(np.median([each.probability for each in answers]))
    answering = _answering(half, temperature=3.0)
    forge(artifact_copy, temperature=answering.temperature, promise=answering.promise)
    model = replace(trained.model, answering=Answering(temperature=0.5))
    verdict = verify(artifact_copy, images, checkpoint=model, include_trained=True)
    assert (verdict.temperature_source, verdict.temperature_artifact) == (0.5, 3.0)
    assert verdict.promise_source is None
    assert verdict.promise_artifact is not None
    assert 0 < verdict.promise_artifact.coverage < 1
    assert verdict.calibration_error_artifact == pytest.approx(
        verdict.calibration_error_source, abs=1e-5
    )
    assert verdict.calibrated_error_artifact != pytest.approx(
        verdict.calibrated_error_source, abs=1e-3
    )
    assert isinstance(verdict.to_json()["promise_artifact"], dict)
    assert "coverage" in verdict._repr_html_()

    rows = dict(verdict_rows(verdict))
    assert rows["calibration error, artifact"].endswith(" at temperature 3")
    assert rows["answered by the artifact"] == f"{verdict.promise_artifact.coverage:.2%}"
    assert "promised: 25%" in rows["wrong answers, artifact"]
    assert "answered by the checkpoint" not in rows
    for name in ("calibration error, artifact", "wrong answers, artifact"):
        assert 30 + len(rows[name]) <= 80
    shown = in_this_process(capsys, "verify", artifact_copy, images, "--from", trained.path)
    assert "promised: 25%" in shown.stdout

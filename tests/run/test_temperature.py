"""The temperature: fitted as scikit-learn fits it, and never changing an answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from mobilette.limits import TEMPERATURE
from mobilette.run.metrics import sigmoid, softmax
from mobilette.run.temperature import FEWEST, fit_temperature

LOGITS = arrays(np.float32, (3, 5), elements=some.floats(-200, 200, width=32))


@given(LOGITS, some.floats(TEMPERATURE.lowest, TEMPERATURE.highest))
def test_no_temperature_changes_the_answer(logits: NDArray[np.float32], temperature: float) -> None:
    best = logits.argmax(axis=1)[:, None]
    for of in (softmax, sigmoid):
        found = of(logits, temperature=temperature)
        assert (np.take_along_axis(found, best, axis=1)[:, 0] == found.max(axis=1)).all()
    assert softmax(logits, temperature=temperature).sum(axis=1) == pytest.approx(1.0)


def drawn(
    count: int, temperature: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits, and labels that follow their probabilities at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 4, (count, 6)).astype(np.float32)
    odds = softmax(logits, temperature=temperature).cumsum(axis=1)
    labels = (generator.random((count, 1)) > odds).sum(axis=1).clip(max=5)
    return logits, labels


class _Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose images are their logits."""

    def fit(self, x: object, y: NDArray[np.int64]) -> _Given:
        self.classes_ = np.unique(y)
        return self

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        best: NDArray[np.int64] = x.argmax(axis=1)
        return best

    def decision_function(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x


@given(some.floats(0.4, 4.0), some.integers(0, 2**32 - 1))
def test_it_is_scikit_learns(temperature: float, seed: int) -> None:
    logits, labels = drawn(500, temperature, seed)
    fitted, why_not = fit_temperature(logits, labels)
    assert not why_not
    theirs = CalibratedClassifierCV(
        FrozenEstimator(_Given().fit(logits, labels)), method="temperature"
    ).fit(logits, labels)
    expected = theirs.predict_proba(logits)
    assert softmax(logits, temperature=fitted) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_labels_drawn_at_a_temperature_give_it_back(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature, 0)
    assert fit_temperature(logits, labels)[0] == pytest.approx(temperature, rel=0.03)


def test_of_independent_classes() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 4, (5_000, 4)).astype(np.float32)
    labels = (generator.random(logits.shape) < sigmoid(logits, temperature=2.0)).astype(np.uint8)
    assert fit_temperature(logits, labels)[0] == pytest.approx(2.0, rel=0.03)


def test_it_is_one_where_nothing_can_be_fitted() -> None:
    logits, labels = drawn(FEWEST, 1.0, 0)
    assert fit_temperature(logits[1:], labels[1:]) == (
        1.0,
        f"{FEWEST - 1} images are too few, at least {FEWEST} are needed",
    )
    assert fit_temperature(logits, logits.argmax(axis=1)) == (1.0, "all 50 answers are right")
    logits[0] = np.nan  # and does not count
    assert fit_temperature(logits, labels)[1].startswith("49 images are too few")


def test_it_stays_in_bounds() -> None:
    logits, _ = drawn(200, 1.0, 0)
    wrong = (logits.argmax(axis=1) + 1) % 6
    assert fit_temperature(100 * logits, wrong)[0] == pytest.approx(TEMPERATURE.highest, rel=1e-3)
    almost = logits.argmax(axis=1)
    almost[0] = logits[0].argsort()[-2]
    lowest = fit_temperature(np.float32(0.001) * logits, almost)[0]
    assert lowest == pytest.approx(TEMPERATURE.lowest, rel=1e-3)

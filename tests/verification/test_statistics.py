from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, multinomial

from mobilette.run.metrics import softmax, wilson_interval
from mobilette.verification.gate import compare, signal_to_noise
from mobilette.verification.statistics import (
    calibration_error,
    drop_interval,
    holm,
    paired_test,
)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (5, 10), (900, 1000), (1, 3)])
def test_wilsons_interval_is_scipys(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / images, images) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


def test_without_images_nothing_is_known() -> None:
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


def test_wilsons_interval_covers_the_truth_as_often_as_it_says() -> None:
    for truth in (0.1, 0.5, 0.9):
        found = np.random.default_rng(0).binomial(200, truth, 4000) / 200
        inside = [low <= truth <= high for low, high in (wilson_interval(f, 200) for f in found)]
        assert 0.93 < np.mean(inside) < 0.97


def test_signal_to_noise() -> None:
    source = np.random.default_rng(0).normal(0, 1, (50, 10)).astype(np.float32)
    assert signal_to_noise(source, source) == math.inf
    assert signal_to_noise(source * np.float32(1.1), source) == pytest.approx(20.0, abs=1e-3)
    assert signal_to_noise(np.zeros_like(source), source) == pytest.approx(0.0)
    assert signal_to_noise(np.full_like(source, np.nan), source) == -math.inf
    assert compare(source, source).signal_to_noise_db == math.inf


def _error_by_the_book(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the sum over 15 bins of (images in it / all) times |accuracy - confidence|."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for edge in range(15):
        inside = (confidence > edge / 15) & (confidence <= (edge + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
def test_calibration_error_is_that_of_the_paper(scale: float) -> None:
    generator = np.random.default_rng(0)
    logits = (scale * generator.normal(0, 1, (3000, 10))).astype(np.float32)
    labels = generator.integers(0, 10, 3000)
    expected = _error_by_the_book(softmax(logits), labels)
    assert calibration_error(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_labels_drawn_from_the_probabilities_are_well_calibrated() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (20000, 5)).astype(np.float32)
    labels = (softmax(logits).cumsum(axis=1) < generator.uniform(size=(20000, 1))).sum(axis=1)
    assert calibration_error(logits, labels) < 0.02
    assert calibration_error(4 * logits, labels) > 0.1


def test_answers_that_are_not_finite_are_wrong_and_sure() -> None:
    assert calibration_error(np.full((4, 3), np.nan, np.float32), np.zeros(4, np.int64)) == 1.0


def _right(both: int, lost: int, won: int, neither: int) -> tuple[NDArray[np.bool_], ...]:
    before = np.repeat([True, True, False, False], (both, lost, won, neither))
    after = np.repeat([True, False, True, False], (both, lost, won, neither))
    return before, after


@pytest.mark.parametrize("accuracy", [0.6, 0.9])
@pytest.mark.parametrize("together", [0.0, 0.8])
def test_the_interval_of_a_drop_covers_it_as_often_as_it_says(
    accuracy: float, together: float
) -> None:
    """For 30 images every table of counts is weighed with its probability."""
    images, after = 30, accuracy - 0.15
    both = together * after + (1 - together) * accuracy * after
    chances = np.array([both, accuracy - both, after - both, 1 - accuracy - after + both])
    covered = everything = 0.0
    for lost in range(images + 1):
        for won in range(images + 1 - lost):
            for kept in range(images + 1 - lost - won):
                counts = (kept, lost, won, images - lost - won - kept)
                chance = multinomial.pmf(counts, images, chances)
                everything += chance
                if chance > 1e-9:
                    low, high = drop_interval(*_right(*counts))
                    covered += chance * (low <= 0.15 <= high)
    assert everything == pytest.approx(1)
    assert 0.93 < covered < 0.99


def test_the_interval_of_no_change_is_around_zero_and_narrower_than_unpaired() -> None:
    low, high = drop_interval(*_right(80, 0, 0, 20))
    below, above = wilson_interval(0.8, 100)
    assert low == pytest.approx(-high, abs=0.01)
    assert 0 < high < (above - below) / 4
    assert drop_interval(*_right(0, 10, 0, 0))[1] == 1.0


@pytest.mark.parametrize("count", range(11))
def test_the_paired_test_counts_outcomes(count: int) -> None:
    """Of all ways in which ``count`` fair coins fall, those at least as uneven."""
    uneven = [abs(2 * sum(coins) - count) for coins in product((0, 1), repeat=count)]
    for lost in range(count + 1):
        expected = np.mean([each >= abs(2 * lost - count) for each in uneven])
        assert paired_test(lost, count - lost) == pytest.approx(expected, abs=1e-12)


@given(lost=st.integers(0, 3000), won=st.integers(0, 3000))
def test_the_paired_test_is_scipys(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert paired_test(lost, won) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(p_values=st.lists(st.floats(0, 1), max_size=7))
def test_holms_correction_is_the_closed_test(p_values: list[float]) -> None:
    """A hypothesis falls when Bonferroni rejects every set of hypotheses that it is in."""
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in combinations(places, size + 1)]
    expected = [
        max(
            min(1.0, min(len(chosen) * p_values[each] for each in chosen))
            for chosen in sets
            if place in chosen
        )
        for place in places
    ]
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilette.verification.gate import compare, judge_golden, judge_pictures


def logits(images: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 3, (images, 10)).astype(np.float32)


def flipped(source: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    changed = source.copy()
    changed[:count] = -changed[:count]
    return changed


def test_equal_logits_pass() -> None:
    comparison = compare(logits(50), logits(50))
    assert (comparison.max_abs_diff, comparison.top1_agreement, comparison.flips) == (0.0, 1.0, 0)
    assert judge_golden(comparison) == judge_pictures(comparison, drop=0.0) == []


@pytest.mark.parametrize(("noise", "passes"), [(1e-5, True), (1e-2, False)])
def test_golden_vectors_tolerate_rounding_only(noise: float, passes: bool) -> None:
    source = logits(8)
    comparison = compare((source + noise * np.sign(source)).astype(np.float32), source)
    assert (judge_golden(comparison) == []) is passes


@pytest.mark.parametrize(
    ("images", "flips", "passes"),
    [(999, 1, True), (999, 2, False), (1000, 1, True), (1000, 2, False), (5000, 5, True)],
)
def test_agreement(images: int, flips: int, passes: bool) -> None:
    comparison = compare(flipped(logits(images), flips), logits(images))
    assert comparison.flips == flips
    assert (judge_pictures(comparison, drop=0.0) == []) is passes


@pytest.mark.parametrize(
    ("images", "drop", "passes"),
    [(5000, 0.001, True), (5000, 0.0012, False), (200, 1 / 200, True), (200, 2 / 200, False)],
)
def test_drop(images: int, drop: float, passes: bool) -> None:
    comparison = compare(logits(images), logits(images))
    assert (judge_pictures(comparison, drop=drop) == []) is passes


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_fail(value: float) -> None:
    broken = logits(20)
    broken[:] = value
    comparison = compare(broken, logits(20))
    assert comparison.max_abs_diff == np.inf
    assert comparison.top1_agreement == 0.0
    assert judge_golden(comparison)
    assert judge_pictures(comparison, drop=0.0)

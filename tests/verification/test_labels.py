"""Wrong labels, confusions and the learning curve, on answers whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilette.verification.labels import (
    assign_folds,
    check_labels,
    confusions,
    extrapolate,
    judge,
    likely_wrong,
)

CLASSES = 5


def answers(
    count: int, wrong: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return honest log-probabilities, labels, and which labels are wrong."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2.5, (count, CLASSES))
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chances = np.exp(logits).cumsum(axis=1)
    labels = (random.random((count, 1)) > chances[:, :-1]).sum(axis=1)
    planted = random.random(count) < wrong
    labels[planted] = (labels[planted] + random.integers(1, CLASSES, planted.sum())) % CLASSES
    return logits, labels, planted


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_how_sure_is_how_often(sharpness: float) -> None:
    """However over- or underconfident the answers are."""
    logits, labels, planted = answers(20_000, 0.05, 0)
    probabilities, wrong = judge(logits * sharpness, labels)
    honest = np.exp(logits)
    assert np.abs(probabilities - honest).mean() < 0.01
    for low, high in ((0.05, 0.3), (0.3, 0.6), (0.6, 1.0)):
        some = (wrong >= low) & (wrong < high)
        assert some.sum() > 50
        assert planted[some].mean() == pytest.approx(wrong[some].mean(), abs=0.08)
    assert wrong.mean() == pytest.approx(0.05, abs=0.01)


def test_without_wrong_labels_few_are_named() -> None:
    logits, labels, _ = answers(5_000, 0.0, 1)
    _, wrong = judge(logits, labels)
    assert len(likely_wrong(wrong)) <= 5


def test_the_list_begins_with_the_surest() -> None:
    assert likely_wrong(np.array([0.9, 0.1, 0.95, 0.0, 0.41, 0.39])).tolist() == [2, 0, 4]


def test_classifiers_never_see_what_they_answer() -> None:
    labels = np.repeat(np.arange(3), 20)
    groups = np.arange(60) // 2 * 2  # pairs
    calls = 0

    def fit(rows: NDArray[np.int64], answered: NDArray[np.int64]) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        assert not set(groups[rows]) & set(groups[answered])
        assert set(labels[rows]) == {0, 1, 2}
        found = np.full((len(answered), 3), -5.0)
        found[np.arange(len(answered)), labels[answered]] = 0
        return found

    found = check_labels(fit, labels, groups, classes=3)
    assert calls == 40
    assert (found.predicted == labels).all()
    assert (found.suggested != labels).all()
    assert found.curve is not None
    assert found.curve.images == (14, 27, 54)


def test_folds_hold_every_class_and_whole_groups() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 200)
    labels = groups % 4
    folds = assign_folds(labels, groups, folds=5)
    assert set(folds.tolist()) == set(range(5))
    for group in range(60):
        assert len(set(folds[groups == group].tolist())) <= 1
    for fold in range(5):
        assert set(labels[folds == fold].tolist()) == {0, 1, 2, 3}


def test_confusions_are_counted() -> None:
    labels = np.array([0] * 10 + [1] * 5)
    predicted = np.array([1] * 4 + [0] * 6 + [1, 1, 1, 0, 0])
    (only,) = confusions(labels, predicted, ("cat", "dog"))
    assert (only.label, only.taken_for, only.images, only.share) == ("cat", "dog", 4, 0.4)


@pytest.mark.parametrize("power", [0.2, 0.5])
def test_a_power_law_is_continued(power: float) -> None:
    images = (100, 200, 400)
    draws = np.random.default_rng(0).random((3, 50_000))
    errors = 3 * np.array(images, float) ** -power * 0.2
    curve = extrapolate(draws > errors[:, None], images)
    expected = 1 - 3 * 800.0**-power * 0.2
    assert curve.twice == pytest.approx(expected, abs=0.01)
    assert curve.interval[0] < expected < curve.interval[1]
    if power < 0.3:  # 32 times as many
        assert curve.halved is None
        return
    assert curve.halved is not None
    assert curve.halved == pytest.approx(400 * 2 ** (1 / power), rel=0.2)
    assert f"{curve.twice:.1%}" in curve.in_words()


def test_perfect_answers_have_a_curve() -> None:
    curve = extrapolate(np.ones((3, 50), np.bool_), (10, 20, 40))
    assert curve.halved is None
    assert curve.twice > 0.98

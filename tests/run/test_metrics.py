from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from mobilette.run.metrics import measure, softmax


@given(st.integers(0, 2**32 - 1), st.integers(6, 12), st.integers(1, 60))
def test_against_scikit_learn(seed: int, classes: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (images, classes)).astype(np.float32)
    labels = generator.integers(0, classes, images)
    ids = [f"class {index}" for index in range(classes)]
    metrics = measure(logits, labels, ids)
    everything = np.arange(classes)
    guesses = logits.argmax(axis=1)
    assert metrics.images == images
    assert metrics.top1 == pytest.approx(accuracy_score(labels, guesses))
    assert metrics.top5 == pytest.approx(
        top_k_accuracy_score(labels, logits, k=5, labels=everything)
    )
    assert metrics.loss == pytest.approx(log_loss(labels, softmax(logits), labels=everything))
    matrix = confusion_matrix(labels, guesses, labels=everything)
    for i, j in np.ndindex(matrix.shape):
        assert metrics.confusion.get(ids[i], {}).get(ids[j], 0) == matrix[i, j]
    assert set(metrics.per_class) == {ids[label] for label in labels}


def test_fewer_than_five_classes_are_all_in_the_top_five() -> None:
    assert measure(np.zeros((2, 3), np.float32), np.array([0, 2]), "abc").top5 == 1.0


def test_equal_logits_do_not_make_a_perfect_top_five() -> None:
    metrics = measure(np.zeros((4, 10), np.float32), np.arange(4), "abcdefghij")
    assert metrics.top5 == 0.0


def test_answers_that_are_not_finite_are_wrong() -> None:
    logits = np.full((2, 10), np.nan, np.float32)
    metrics = measure(logits, np.array([0, 1]), "abcdefghij")
    assert (metrics.top1, metrics.top5) == (0.0, 0.0)
    assert math.isnan(metrics.loss)


def test_large_logits_do_not_overflow() -> None:
    metrics = measure(np.array([[1e4, -1e4]], np.float32), np.array([1]), "ab")
    assert metrics.loss == pytest.approx(2e4)

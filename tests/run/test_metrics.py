from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from torch.nn.functional import binary_cross_entropy_with_logits

from mobilette.data.images import Labels
from mobilette.run.metrics import accuracy, measure, sigmoid, softmax


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


@pytest.mark.parametrize("labels", [np.array([0, 2]), np.eye(2, 5, dtype=np.uint8)])
def test_five_classes_or_fewer_have_no_top_five(labels: Labels) -> None:
    metrics = measure(np.zeros((2, 5), np.float32), labels, "abcde")
    assert metrics.top5 is None
    assert metrics.to_json()["top5"] is None
    more = np.eye(2, 6, dtype=np.uint8) if labels.ndim == 2 else labels
    assert measure(np.eye(2, 6, dtype=np.float32), more, "abcdef").top5 is not None


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


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 40))
def test_multi_label_against_the_definitions(seed: int, classes: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (images, classes)).astype(np.float32)
    labels = (generator.random((images, classes)) < 0.3).astype(np.uint8)
    ids = [f"class {index}" for index in range(classes)]
    metrics = measure(logits, labels, ids)
    wanted = torch.from_numpy(labels).double()
    loss = binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), wanted)
    assert metrics.loss == pytest.approx(loss.item())
    precisions = {}
    for index in range(classes):
        # With no two logits alike: the precision at each image of the class, best logit first.
        sorted_labels = labels[np.argsort(-logits[:, index]), index]
        if sorted_labels.any():
            hits = np.cumsum(sorted_labels) / np.arange(1, images + 1)
            precisions[ids[index]] = float(hits[sorted_labels == 1].mean())
    found = {name: found["average_precision"] for name, found in metrics.per_class.items()}
    assert found == pytest.approx(precisions)
    assert metrics.mean_average_precision == pytest.approx(
        sum(precisions.values()) / max(1, len(precisions))
    )
    ranked = np.argsort(-logits, axis=1)
    assert (metrics.top5 is None) == (classes <= 5)
    for count, value in ((1, metrics.top1), (5, metrics.top5)):
        if value is None:
            continue
        right = [
            bool(labels[row, ranked[row, :count]].any())
            for row in range(images)
            if labels[row].any()
        ]
        assert value == pytest.approx(sum(right) / max(1, len(right)))
    assert metrics.confusion == {}
    assert (metrics.images, metrics.top1) == (images, accuracy(logits, labels))


def test_multi_label_answers_that_are_not_finite_are_wrong() -> None:
    labels = np.array([[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]], np.uint8)
    logits = np.eye(6, dtype=np.float32)[[0, 0, 1]]
    assert measure(logits, labels, "abcdef").mean_average_precision == 1.0
    for value in (np.nan, np.inf, -np.inf):
        broken = logits.copy()
        broken[1] = value
        metrics = measure(broken, labels, "abcdef")
        assert [metrics.top1, metrics.top5] == pytest.approx([2 / 3, 2 / 3])
        assert metrics.per_class["a"]["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
        assert not math.isfinite(metrics.loss)


def test_multi_label_images_of_no_class() -> None:
    metrics = measure(np.ones((3, 6), np.float32), np.zeros((3, 6), np.uint8), "abcdef")
    assert (metrics.top1, metrics.top5, metrics.mean_average_precision) == (0.0, 0.0, 0.0)
    assert metrics.loss == pytest.approx(math.log1p(math.e))
    assert metrics.to_json()["mean_average_precision"] == 0.0
    single = measure(np.ones((1, 2), np.float32), np.array([0]), "ab")
    assert "mean_average_precision" not in single.to_json()


def test_sigmoid_of_large_logits() -> None:
    given = sigmoid(np.array([[-1e4, -1.0, 0.0, 1.0, 1e4]], np.float32))
    expected = [0.0, 1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-1)), 1.0]
    assert given[0].tolist() == pytest.approx(expected)

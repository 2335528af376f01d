"""How good a classifier's logits are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Accuracy and loss over a set of pictures; fractions are 0 to 1.

    Logits that are not finite count as wrong answers.

    Attributes:
        top5: the true class is among the five largest logits (all, if there are fewer classes).
        loss: mean cross-entropy, natural logarithm.
        per_class: class id to its pictures and top-1, for the classes that occur.
        confusion: true class id to predicted class id to pictures, zeros left out.
    """

    top1: float
    top5: float
    loss: float
    images: int
    per_class: dict[str, dict[str, float]]
    confusion: dict[str, dict[str, int]]


def measure(logits: NDArray[np.float32], labels: NDArray[np.int64], ids: Sequence[str]) -> Metrics:
    """Return the metrics of ``logits`` (N, classes) against ``labels`` (N,), N at least 1."""
    predicted = logits.argmax(axis=1)
    finite = np.isfinite(logits).all(axis=1)
    correct = (predicted == labels) & finite
    true_logit = np.take_along_axis(logits, labels[:, None], axis=1)
    # Ties count against the prediction, so equal logits for all classes are not 100% top-5.
    at_least = (logits >= true_logit).sum(axis=1)
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    confusion: dict[str, dict[str, int]] = {}
    for (true, guess), pictures in zip(pairs.T, counts, strict=True):
        confusion.setdefault(ids[true], {})[ids[guess]] = int(pictures)
    return Metrics(
        top1=float(correct.mean()),
        top5=float(((at_least <= 5) & finite).mean()),
        loss=float(-(true_logit[:, 0].astype(np.float64) - log_sum_exp(logits)).mean()),
        images=len(labels),
        per_class={
            ids[label]: {
                "images": int((labels == label).sum()),
                "top1": float(correct[labels == label].mean()),
            }
            for label in np.unique(labels)
        },
        confusion=confusion,
    )


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log(sum(exp(logits))) of each row, without overflow."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1)
    total: NDArray[np.float64] = largest + np.log(np.exp(wide - largest[:, None]).sum(axis=1))
    return total


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities (N, classes) of ``logits``."""
    probabilities: NDArray[np.float64] = np.exp(
        logits.astype(np.float64) - log_sum_exp(logits)[:, None]
    )
    return probabilities

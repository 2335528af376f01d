"""Accuracy and loss of a classifier's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import Labels

# The normal distribution's 97.5% quantile, for 95% intervals.
Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Accuracy and loss over a set of images; fractions are 0 to 1.

    Non-finite logits count as wrong. In a multi-label set, any of an image's classes is a right
    answer, and top-1 and top-5 leave out images without a class.

    Attributes:
        top1: the fraction of images whose largest logit is the true class's.
        top5: the same for the five largest logits; ``None`` with five classes or fewer.
        loss: mean cross-entropy, natural logarithm; for multi-label sets, mean binary
            cross-entropy over images and classes.
        per_class: class id to image count and top-1 (multi-label: average precision), for the
            classes that occur.
        confusion: true class id to predicted class id to image count, zeros left out; empty for
            multi-label sets.
        mean_average_precision: for multi-label sets, the mean of scikit-learn's
            ``average_precision_score`` over the classes that occur, 0 if none does; else ``None``.
        classes_matched_by: how the images' classes were matched with the model's, if they were.
        trained_left_out: how many images were left out because the model was trained on them.
        includes_trained: whether the model was trained on some of ``images``; ``None`` where that
            is not known.
    """

    top1: float
    top5: float | None
    loss: float
    images: int
    per_class: dict[str, dict[str, float]]
    confusion: dict[str, dict[str, int]]
    mean_average_precision: float | None = None
    classes_matched_by: str | None = None
    trained_left_out: int = 0
    includes_trained: bool | None = False

    @property
    def score(self) -> float:
        """The criterion for the best weights: top-1 or mean average precision."""
        return self.top1 if self.mean_average_precision is None else self.mean_average_precision

    def to_json(self) -> dict[str, object]:
        """Return the metrics as JSON values; mean average precision only if there is one."""
        values = asdict(self)
        if self.mean_average_precision is None:
            del values["mean_average_precision"]
        return values


def measure(logits: NDArray[np.float32], labels: Labels, ids: Sequence[str]) -> Metrics:
    """Return the metrics of ``logits`` (N, classes) against ``labels``, N ≥ 1.

    Labels are indices (N,) or, for multi-label sets, 0 and 1 (N, classes).
    """
    if labels.ndim == 2:
        return _measure_multi_label(logits, labels == 1, ids)
    predicted = logits.argmax(axis=1)
    finite = np.isfinite(logits).all(axis=1)
    correct = (predicted == labels) & finite
    true_logit = np.take_along_axis(logits, labels[:, None], axis=1)
    # Ties count against the prediction, so equal logits for all classes are not 100% top-5.
    at_least = (logits >= true_logit).sum(axis=1)
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    confusion: dict[str, dict[str, int]] = {}
    for (true, guess), images in zip(pairs.T, counts, strict=True):
        confusion.setdefault(ids[true], {})[ids[guess]] = int(images)
    return Metrics(
        top1=float(correct.mean()),
        top5=float(((at_least <= 5) & finite).mean()) if len(ids) > 5 else None,
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


def accuracy(logits: NDArray[np.float32], labels: Labels) -> float:
    """Return ``top1`` of `measure` alone."""
    right = right_answers(logits, labels)
    return _mean(right if labels.ndim == 1 else right[labels.any(axis=1)])


def right_answers(logits: NDArray[np.float32], labels: Labels) -> NDArray[np.bool_]:
    """Return whether each image's largest logit is that of a true class, bool (N,)."""
    predicted, finite = logits.argmax(axis=1), np.isfinite(logits).all(axis=1)
    if labels.ndim == 1:
        right: NDArray[np.bool_] = predicted == labels
    else:
        right = np.take_along_axis(labels, predicted[:, None], axis=1)[:, 0] == 1
    return right & finite


def wilson_interval(fraction: float, images: int) -> tuple[float, float]:
    """Return the 95% confidence interval of ``fraction``, measured on ``images`` images.

    Wilson's score interval (Probable inference, the law of succession, and statistical inference,
    JASA 22, 1927) stays inside 0 to 1 and has a width at both ends. Without images it is 0 to 1.
    """
    if images == 0:
        return 0.0, 1.0
    spread = Z95**2 / images
    centre = (fraction + spread / 2) / (1 + spread)
    half = math.sqrt(fraction * (1 - fraction) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _measure_multi_label(
    logits: NDArray[np.float32], labels: NDArray[np.bool_], ids: Sequence[str]
) -> Metrics:
    from sklearn.metrics import average_precision_score  # takes 1.8 s to import

    wide = logits.astype(np.float64)
    finite = np.isfinite(wide).all(axis=1, keepdims=True)
    best = np.where(labels, wide, -np.inf).max(axis=1, keepdims=True)
    above = ((wide >= best) & ~labels).sum(axis=1, keepdims=True)
    limit = 1 + np.abs(np.where(finite, wide, 0)).max()
    scores = np.where(finite, wide, np.where(labels, -limit, limit))
    precision = {
        index: float(average_precision_score(labels[:, index], scores[:, index]))
        for index in range(labels.shape[1])
        if labels[:, index].any()
    }
    with np.errstate(invalid="ignore"):  # infinity - infinity
        loss = (np.logaddexp(0, wide) - np.where(labels, wide, 0)).mean()
    return Metrics(
        top1=accuracy(logits, labels.astype(np.uint8)),
        top5=_mean(((above < 5) & finite)[labels.any(axis=1)]) if len(ids) > 5 else None,
        loss=float(loss),
        images=len(labels),
        per_class={
            ids[index]: {"images": int(labels[:, index].sum()), "average_precision": value}
            for index, value in precision.items()
        },
        confusion={},
        mean_average_precision=_mean(np.array(list(precision.values()))),
    )


def _mean(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def log_sum_exp(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(sum(exp(logits))) per row, without overflow."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1)
    total: NDArray[np.float64] = largest + np.log(np.exp(wide - largest[:, None]).sum(axis=1))
    return total


def softmax(logits: NDArray[np.float32], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities (N, classes) of ``logits``, divided by ``temperature``."""
    scaled = logits.astype(np.float64) / temperature
    probabilities: NDArray[np.float64] = np.exp(scaled - log_sum_exp(scaled)[:, None])
    return probabilities


def sigmoid(logits: NDArray[np.float32], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the independent class probabilities (N, classes) of multi-label ``logits``."""
    scaled = logits.astype(np.float64) / temperature
    probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0, -scaled))
    return probabilities


def largest(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the indices of the ``count`` largest of ``values``, the largest first, ties by index.

    Only these are sorted, which takes a fifth of the time among 1,000 classes.
    """
    count = min(count, len(values))
    among = np.flatnonzero(values >= np.partition(values, -count)[-count])
    chosen: NDArray[np.intp] = among[np.argsort(-values[among], kind="stable")[:count]]
    return chosen

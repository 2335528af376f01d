"""Intervals, tests and errors of measured accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from mobilette.data.images import Labels
from mobilette.run.metrics import softmax, wilson_interval

BINS = 15


def drop_interval(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95% confidence interval of a loss of accuracy on the same N > 0 images.

    Newcombe's interval for paired proportions, from Wilson's of both (method 10 of: Improved
    confidence intervals for the difference between binomial proportions based on paired data,
    Statistics in Medicine 17, 1998).

    Args:
        before: which images were answered right, bool (N,).
        after: which of the same images are now.

    Returns:
        Its ends, as fractions; positive for a loss.
    """
    images = len(before)
    first, second = float(before.mean()), float(after.mean())
    (low1, high1), (low2, high2) = (wilson_interval(each, images) for each in (first, second))
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    covariance = float(both * neither - lost * won)
    if covariance > 0:
        covariance = max(covariance - images / 2, 0.0)  # for continuity
    variances = images**4 * first * (1 - first) * second * (1 - second)
    correlation = covariance / math.sqrt(variances) if variances > 0 else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    drop = first - second
    return (
        drop - reach(first - low1, high2 - second),
        drop + reach(high1 - first, second - low2),
    )


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose confidence lies between two numbers; ``right`` and ``confidence`` are means.

    Attributes:
        low: the least confidence, left out, 0 to 1.
        high: the largest, included.
        images: how many there are; the means are 0 without any.
    """

    low: float
    high: float
    images: int
    right: float
    confidence: float


def reliability(
    logits: NDArray[np.float32], labels: Labels, *, temperature: float = 1.0
) -> tuple[Bin, ...]:
    """Return 15 bins of equal width of the images, by the softmax of their largest logit.

    Logits (N, classes), N > 0, are divided by ``temperature`` before. Those that are not finite are
    wrong answers of full confidence. ``labels`` (N,) are single classes.
    """
    finite = np.isfinite(logits).all(axis=1)
    confidence = np.ones(len(logits))
    confidence[finite] = softmax(logits[finite], temperature=temperature).max(axis=1)
    right = (logits.argmax(axis=1) == labels) & finite
    # A bin includes its upper end.
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts, rights, sums = (
        np.bincount(bins, weights=each, minlength=BINS).tolist()
        for each in (np.ones(len(bins)), right, confidence)
    )
    return tuple(
        Bin(
            low=number / BINS,
            high=(number + 1) / BINS,
            images=round(counts[number]),
            right=rights[number] / max(counts[number], 1),
            confidence=sums[number] / max(counts[number], 1),
        )
        for number in range(BINS)
    )


def calibration_error(
    logits: NDArray[np.float32], labels: Labels, *, temperature: float = 1.0
) -> float:
    """Return the expected calibration error, 0 to 1, of ``logits`` (N, classes) with N > 0.

    The mean over all images of the distance between their bin's accuracy and mean confidence (Guo,
    Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017); the bins and
    arguments are those of `reliability`.
    """
    return distance(reliability(logits, labels, temperature=temperature))


def distance(bins: Sequence[Bin]) -> float:
    """Return the `calibration_error` of ``bins``."""
    images = sum(each.images for each in bins)
    return sum(each.images * abs(each.right - each.confidence) for each in bins) / images


def paired_test(lost: int, won: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided.

    Of the images that one of two sides answers right and the other wrong, ``lost`` are right only
    before and ``won`` only after. If both are equally likely, their split is binomial with 1/2
    (McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12, 1947). 1 without such images.
    """
    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order.

    The chance that any true hypothesis has one of at most x is at most x, however the tests depend
    on each other (Holm, A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6, 1979).
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected

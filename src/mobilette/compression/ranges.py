"""By which rule the range of an activation is chosen from the values that calibration showed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# minmax: from the smallest to the largest value that was seen. percentile: what is left of the
# values when the most extreme are cut off. mse: the range whose steps lose least, by mean square.
Ranges = Literal["minmax", "percentile", "mse"]
RANGES: tuple[Ranges, ...] = ("minmax", "percentile", "mse")

# Percent of all values that lie inside the range of ``percentile``.
PERCENTILE = 99.99

# Steps between the ends of a range of uint8.
STEPS = 255


def choose_range(
    ranges: Ranges, *, low: float, high: float, histogram: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return the ends of the range of an activation; 0 always lies in it, as padding needs.

    Args:
        ranges: the rule.
        low: the smallest value that was seen.
        high: the largest.
        histogram: how many values fell into each of equal parts of ``low`` to ``high``, (bins,);
            ``minmax`` needs none.
    """
    whole = min(low, 0.0), max(high, 0.0)
    if ranges == "minmax" or histogram is None or not high > low or not histogram.sum():
        return whole
    edges = np.linspace(low, high, len(histogram) + 1)
    if ranges == "mse":
        return _least_error(whole, (edges[:-1] + edges[1:]) / 2, histogram)
    below = np.concatenate([[0.0], np.cumsum(histogram)]) / histogram.sum()
    outside = (1 - PERCENTILE / 100) / 2
    first = edges[np.searchsorted(below, outside, side="right") - 1]
    last = edges[np.searchsorted(below, 1 - outside, side="left")]
    return min(float(first), 0.0), max(float(last), 0.0)


def _least_error(
    whole: tuple[float, float], values: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the range, of those that cut both ends of ``whole`` alike, of least mean square error.

    A value inside is rounded, a mean square error of a twelfth of a step; one outside is cut.
    """
    best, least = whole, np.inf
    for part in np.linspace(1.0, 0.05, 96):
        low, high = part * whole[0], part * whole[1]
        cut = values - np.clip(values, low, high)
        rounding = ((high - low) / STEPS) ** 2 / 12
        error = float((counts * np.where(cut == 0, rounding, cut**2)).sum())
        if error < least:
            best, least = (low, high), error
    return best

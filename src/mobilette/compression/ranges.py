"""By which rule the range of an activation is chosen from the values that calibration showed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# plain: what an engine's own quantiser does by itself: minmax with ONNX Runtime and OpenVINO, a
# search of its own with LiteRT and ExecuTorch. minmax: from the smallest to the largest value that
# was seen. percentile: what is left of the values when the most extreme are cut off. mse: the range
# whose steps lose least, by mean square.
Ranges = Literal["plain", "minmax", "percentile", "mse"]
RANGES: tuple[Ranges, ...] = ("plain", "minmax", "percentile", "mse")

# Percent of all values that lie inside the range of ``percentile``.
PERCENTILE = 99.99
BINS = 2048
# Steps between the ends of a range of 8 bits.
STEPS = 255
_CANDIDATES, _ROUNDS = 128, 20


def histogram_range(
    ranges: Ranges, counts: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the (smallest, largest) value that ``ranges`` keeps of a tensor's histogram.

    Args:
        ranges: the rule.
        counts: values in each bin, (bins,).
        edges: of the bins, rising, (bins + 1,).
    """
    if ranges == "percentile":
        return _percentile_range(counts, edges)
    if ranges == "mse":
        return _least_squares_range(counts, edges)
    return float(edges[0]), float(edges[-1])


def _percentile_range(
    counts: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[float, float]:
    """Cut off half of what `PERCENTILE` leaves at either end, up to the width of a bin."""
    outside = (1 - PERCENTILE / 100) / 2 * counts.sum()
    low = int((np.cumsum(counts) <= outside).sum())
    high = len(counts) - int((np.cumsum(counts[::-1]) <= outside).sum())
    return (float(edges[low]), float(edges[high])) if low < high else (edges[0], edges[-1])


def _least_squares_range(
    counts: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[float, float]:
    """Move one end after the other to where 8 bits lose least, by the sum of squares.

    What is lost of a value inside is step^2 / 12 on average, nothing of zero, which is a step of
    its own; of one outside, the square of its distance from the range. Zero lies inside.
    """
    low, high = smallest, largest = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
    shares = np.linspace(0, 1, _CANDIDATES + 1)[1:]
    for _ in range(_ROUNDS):
        before = low, high
        low = smallest * shares[_lost(counts, edges, smallest * shares, high).argmin()]
        high = largest * shares[_lost(counts, edges, low, largest * shares).argmin()]
        if (low, high) == before:
            break
    return float(low), float(high)


def _lost(
    counts: NDArray[np.float64],
    edges: NDArray[np.float64],
    low: NDArray[np.float64] | float,
    high: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Return the sum of squares that is lost in each of the ranges ``low`` to ``high``."""
    lows, highs = np.broadcast_arrays(low, high)
    centres = (edges[:-1] + edges[1:]) / 2
    beyond = centres - np.clip(centres, lows[:, None], highs[:, None])
    rounded = (beyond == 0) & ~((edges[:-1] <= 0) & (edges[1:] > 0))
    steps = (highs - lows) / STEPS
    result: NDArray[np.float64] = (np.square(beyond) @ counts) + (rounded @ counts) * steps**2 / 12
    return result

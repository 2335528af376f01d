"""How an activation's int8 range is chosen from the values seen in calibration."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# plain: the default of the engine's quantiser: minmax in ONNX Runtime and OpenVINO, a search in
# LiteRT and ExecuTorch. minmax: from the smallest to the largest value. percentile: without the
# most extreme values. mse: the range with the smallest mean square rounding error.
Ranges = Literal["plain", "minmax", "percentile", "mse"]
RANGES: tuple[Ranges, ...] = ("plain", "minmax", "percentile", "mse")

# Percentage of the values inside the ``percentile`` range.
PERCENTILE = 99.99
BINS = 2048
# Steps in an 8-bit range.
STEPS = 255
_CANDIDATES, _ROUNDS = 128, 20


def histogram_range(
    ranges: Ranges, counts: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the (smallest, largest) value of the range chosen from a tensor's histogram.

    ``counts`` are the values per bin, (bins,), and ``edges`` ascend, (bins + 1,).
    """
    if ranges == "percentile":
        return _percentile_range(counts, edges)
    if ranges == "mse":
        return _least_squares_range(counts, edges)
    return float(edges[0]), float(edges[-1])


def _percentile_range(
    counts: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[float, float]:
    """Cut half of what `PERCENTILE` excludes off each end, to within a bin."""
    outside = (1 - PERCENTILE / 100) / 2 * counts.sum()
    low = int((np.cumsum(counts) <= outside).sum())
    high = len(counts) - int((np.cumsum(counts[::-1]) <= outside).sum())
    return (float(edges[low]), float(edges[high])) if low < high else (edges[0], edges[-1])


def _least_squares_range(
    counts: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[float, float]:
    """Move one end after the other to where the sum of squared errors in 8 bits is smallest.

    The squared error of a value inside the range is step^2 / 12 on average (0 for zero, which is a
    step), outside its squared distance from the range. The range contains zero.
    """
    low, high = smallest, largest = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
    shares = np.linspace(0, 1, _CANDIDATES + 1)[1:]
    for _ in range(_ROUNDS):
        before = low, high
        low = smallest * shares[_squared_error(counts, edges, smallest * shares, high).argmin()]
        high = largest * shares[_squared_error(counts, edges, low, largest * shares).argmin()]
        if (low, high) == before:
            break
    return float(low), float(high)


def _squared_error(
    counts: NDArray[np.float64],
    edges: NDArray[np.float64],
    low: NDArray[np.float64] | float,
    high: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Return the sum of squared errors of each range ``low`` to ``high``."""
    lows, highs = np.broadcast_arrays(low, high)
    centres = (edges[:-1] + edges[1:]) / 2
    beyond = centres - np.clip(centres, lows[:, None], highs[:, None])
    rounded = (beyond == 0) & ~((edges[:-1] <= 0) & (edges[1:] > 0))
    steps = (highs - lows) / STEPS
    result: NDArray[np.float64] = (np.square(beyond) @ counts) + (rounded @ counts) * steps**2 / 12
    return result

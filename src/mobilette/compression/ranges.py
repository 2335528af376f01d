"""By which rule the range of an activation is chosen from the values that calibration showed."""

from __future__ import annotations

from typing import Literal

# minmax: from the smallest to the largest value that was seen. percentile: what is left of the
# values when the most extreme are cut off. mse: the range whose steps lose least, by mean square.
Ranges = Literal["minmax", "percentile", "mse"]
RANGES: tuple[Ranges, ...] = ("minmax", "percentile", "mse")

# Percent of all values that lie inside the range of ``percentile``.
PERCENTILE = 99.99

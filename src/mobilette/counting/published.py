"""Published ImageNet accuracies of networks of the catalogue.

bench/published.py writes the table, published.csv, and documents the choice of values: top-1 on
ImageNet's validation set, 1,000 classes, one crop, floating point. CIFAR networks are left out.

Between published points, on a line of two or in a rectangle of four, the accuracy is interpolated
linearly in the logarithms of width and resolution, because mult-adds grow with the square of both.
There is no extrapolation.
"""

from __future__ import annotations

import csv
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import log

from mobilette.arch.scale import Resolution

Grid = Mapping[tuple[float, float], "Accuracy"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 accuracy on ImageNet.

    Attributes:
        top1: a fraction.
        interpolated: whether it was computed from the published points around it.
        source: who published it, or the points around it.
    """

    top1: float
    interpolated: bool
    source: str


def published_accuracy(name: str, width_mult: float, resolution: Resolution) -> Accuracy | None:
    """Return a network's published accuracy, interpolated if need be; ``None`` if unknown.

    It is unknown for all oblong images.
    """
    if not isinstance(resolution, int):
        return None
    grid = _table().get(name, {})
    if (width_mult, resolution) in grid:
        return grid[width_mult, resolution]
    widths = _around(sorted({width for width, _ in grid}), width_mult)
    sides = _around(sorted({side for _, side in grid}), resolution)
    corners = {(width, side): share * part for width, share in widths for side, part in sides}
    if not corners or not corners.keys() <= grid.keys():
        return None
    sources = dict.fromkeys(grid[corner].source for corner in corners)
    return Accuracy(
        top1=round(sum(weight * grid[corner].top1 for corner, weight in corners.items()), 5),
        interpolated=True,
        source="; ".join(sources),
    )


def published_widths(name: str) -> list[float]:
    """Return the width multipliers that have a published accuracy, in rising order."""
    return sorted({width for width, _ in _table().get(name, {})})


def published_points() -> dict[tuple[str, float, float], Accuracy]:
    """Return the whole table: (network, width multiplier, resolution) to accuracy."""
    return {
        (name, *point): known for name, grid in _table().items() for point, known in grid.items()
    }


@cache
def _table() -> Mapping[str, Grid]:
    grids: dict[str, dict[tuple[float, float], Accuracy]] = {}
    file = resources.files("mobilette").joinpath("counting", "published.csv")
    with file.open(encoding="utf-8") as text:
        for line in csv.DictReader(text):
            point = (float(line["width_mult"]), int(line["resolution"]))
            grids.setdefault(line["name"], {})[point] = Accuracy(
                top1=float(line["top1"]), interpolated=False, source=line["source"]
            )
    return grids


def _around(known: Sequence[float], value: float) -> list[tuple[float, float]]:
    """Return the neighbours of ``value`` among ``known``, each with its weight; empty outside."""
    below, above = bisect_right(known, value) - 1, bisect_left(known, value)
    if below < 0 or above == len(known):
        return []
    if below == above:
        return [(value, 1.0)]
    low, high = known[below], known[above]
    share = log(value / low) / log(high / low)
    return [(low, 1 - share), (high, share)]

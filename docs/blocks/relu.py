"""What ReLU destroys in few dimensions: a spiral goes through a random ReLU layer and back.

The experiment of the MobileNet V2 paper's Figure 1 (arXiv 1801.04381), many times instead of once.

    python -m docs.blocks.relu
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from docs.blocks.plain_table import plain_table
from docs.blocks.show import show
from docs.blocks.style import BLUE, GREY, VERMILION

Array = npt.NDArray[np.float64]

DIMENSIONS = (2, 3, 5, 15, 30)
DRAWS = 1000
POINTS = 200


class Trials(NamedTuple):
    """What came back through each of many random matrices.

    Attributes:
        returned: (draws, 2, points), after the pseudo-inverse and the best single scale.
        error: (draws,), root mean square distance to the spiral as a part of its own size.
        lost: (draws,), the part of the points of which fewer than two numbers were left.
    """

    returned: Array
    error: Array
    lost: Array


def spiral() -> Array:
    """Return the points of a spiral of two and a half turns around its middle, (2, points)."""
    angle = np.linspace(0.5, 5 * np.pi, POINTS)
    points = angle * np.stack([np.cos(angle), np.sin(angle)])
    return np.asarray(points - points.mean(axis=1, keepdims=True))


def trials(dimensions: int, *, relu: bool = True) -> Trials:
    """Embed the spiral with random T, apply ReLU, return by the pseudo-inverse of T.

    ReLU keeps about half of what it gets, so all that comes back is smaller; that alone is not
    counted as an error: each result is scaled by the one factor that suits it best.
    """
    x = spiral()
    generator = np.random.default_rng(dimensions)
    matrices = generator.standard_normal((DRAWS, dimensions, 2))
    embedded = matrices @ x
    kept = np.maximum(embedded, 0) if relu else embedded
    back = np.linalg.pinv(matrices) @ kept
    scale = (back * x).sum(axis=(1, 2)) / (back**2).sum(axis=(1, 2))
    returned = scale[:, None, None] * back
    error = np.sqrt(((returned - x) ** 2).sum(axis=(1, 2)) / (x**2).sum())
    lost = ((embedded > 0).sum(axis=1) < 2).mean(axis=1)
    return Trials(returned, error, lost)


def report() -> str:
    """Return errors and lost points by dimension as a table."""
    rows = []
    for n in DIMENSIONS:
        result, linear = trials(n), trials(n, relu=False)
        # Each number is positive with probability 1/2, so none or one of n with (1 + n) / 2^n.
        rows.append(
            (
                str(n),
                f"{result.error.mean():.2f}",
                f"{result.error.std():.2f}",
                f"{result.lost.mean():.1%}",
                f"{(1 + n) / 2**n:.1%}",
                f"{linear.error.mean():.2f}",
            )
        )
    header = ("n", "error", "spread", "points lost", "(1 + n) / 2^n", "error without ReLU")
    return plain_table(header, rows)


def typical(result: Trials) -> Array:
    """Return the spiral that came back with the median error."""
    return np.asarray(result.returned[np.argsort(result.error)[DRAWS // 2]])


def draw() -> Figure:
    """Draw the spiral, what typically comes back of it, and the error over the dimensions."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=(1, 1, 1.05))
    places = [figure.add_subplot(grid[place // 3, place % 3]) for place in range(6)]
    _spiral(places[0], spiral(), "the spiral")
    for axes, n in zip(places[1:], DIMENSIONS, strict=True):
        result = trials(n)
        error = np.median(result.error)
        _spiral(axes, typical(result), f"n = {n}, error {error:.2f}")
    _errors(figure.add_subplot(grid[2, :]))
    return figure


def _spiral(axes: Axes, points: Array, title: str) -> None:
    axes.set_title(title)
    x = spiral()
    axes.plot(x[0], x[1], color=GREY, linewidth=0.5, zorder=0)
    axes.scatter(points[0], points[1], c=np.arange(POINTS), cmap="plasma", vmax=1.2 * POINTS, s=5)
    axes.set_xlim(-24, 24)
    axes.set_ylim(-17, 17)
    axes.set_aspect("equal")
    axes.axis("off")


def _errors(axes: Axes) -> None:
    dimensions = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30)
    results = [trials(n) for n in dimensions]
    errors = np.array([result.error for result in results])
    low, middle, high = np.quantile(errors, (0.1, 0.5, 0.9), axis=1)
    axes.fill_between(dimensions, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(dimensions, middle, color=BLUE, marker="o", markersize=3)
    lost = [result.lost.mean() for result in results]
    axes.plot(dimensions, lost, color=VERMILION, marker="o", markersize=3)
    axes.text(8.6, 0.72, "error of what comes back: median and 80% of 1,000 matrices", color=BLUE)
    axes.text(7.7, 0.08, "part of the points that is lost for good", color=VERMILION)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_xlim(1.5, 30.5)
    axes.set_xticks(DIMENSIONS)
    axes.set_xlabel("dimensions n of the ReLU layer")


if __name__ == "__main__":
    show(report)

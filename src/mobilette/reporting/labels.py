"""Labels beside the points of a plot, none over another or over a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, pi, sin
from typing import TYPE_CHECKING, NamedTuple

from mobilette.reporting.style import INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In points: how far a label is from its point, where the next ring of places is, and half a mark.
NEAR, STEP, RINGS, MARK = 9.0, 11.0, 9, 6.0
# Right first, then left, above and below, then between.
ANGLES = (0, 180, 90, 270, 45, 315, 135, 225)


class Box(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Return the area that this has in common with ``other``."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: Box) -> float:
        """Return the area of this that is not in ``frame``."""
        area = (self.right - self.left) * (self.top - self.bottom)
        return area - self.overlap(frame)


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], *, size: float = 8.5
) -> list[Box]:
    """Write a label beside each of ``points``, given in the units of the axes.

    Each takes the nearest free place around its point; one that is further away gets a line.

    Returns:
        Where the labels are.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout is known only then
    scale = figure.dpi / 72
    frame = Box(*axes.get_window_extent().extents)
    pixels = [tuple(map(float, axes.transData.transform(point))) for point in points]
    taken = [_around(x, y, MARK * scale) for x, y in pixels]
    placed = []
    for point, (x, y), text in zip(points, pixels, labels, strict=True):
        label = axes.annotate(
            text,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            color=INK,
            ha="center",
            va="center",
        )
        extent = label.get_window_extent()
        half = (float(extent.width) / 2 + 1, float(extent.height) / 2 + 1)
        dx, dy, ring, box = _best_place(x, y, half, taken, frame, scale)
        label.set_position((dx / scale, dy / scale))
        if ring:
            edge = (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top))
            ends = axes.transData.inverted().transform([(x, y), edge])
            axes.plot(ends[:, 0], ends[:, 1], color=QUIET, linewidth=0.6, zorder=1)
        taken.append(box)
        placed.append(box)
    return placed


def _best_place(
    x: float,
    y: float,
    half: tuple[float, float],
    taken: Sequence[Box],
    frame: Box,
    scale: float,
) -> tuple[float, float, int, Box]:
    """Return the offset of a label's middle, its ring, and its box: the first that covers least."""

    def covered(place: tuple[float, float, int, Box]) -> float:
        box = place[3]
        return sum(box.overlap(other) for other in taken) + box.outside(frame)

    return min(_places(x, y, half, scale), key=covered)


def _places(
    x: float, y: float, half: tuple[float, float], scale: float
) -> Iterator[tuple[float, float, int, Box]]:
    for ring in range(RINGS):
        distance = (NEAR + ring * STEP) * scale
        for angle in ANGLES:
            along, up = cos(angle * pi / 180), sin(angle * pi / 180)
            dx = distance * along + half[0] * round(along * 1.4)
            dy = distance * up + half[1] * round(up)
            box = Box(x + dx - half[0], y + dy - half[1], x + dx + half[0], y + dy + half[1])
            yield dx, dy, ring, box


def _around(x: float, y: float, radius: float) -> Box:
    return Box(x - radius, y - radius, x + radius, y + radius)

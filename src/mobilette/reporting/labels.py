"""Labels of the points of a plot that do not cover each other, the points or their spreads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, pi, sin
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mobilette.reporting.style import INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In points: distance of the nearest label from its point, between rings of places, half the size of
# a mark and half the thickness of a line.
NEAR, STEP, MARK, LINE = 9.0, 11.0, 6.0, 1.0
RINGS = 9
ANGLES = (0, 180, 90, 270, 45, 315, 135, 225)  # right first, then left, above, below
PIECES = 12  # of the line from a point to its label, each kept free of other labels


class Rectangle(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Rectangle) -> float:
        """Return the area shared with ``other``."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: Rectangle) -> float:
        """Return the area outside ``frame``."""
        area = (self.right - self.left) * (self.top - self.bottom)
        return area - self.overlap(frame)


class LabelPlace(NamedTuple):
    """A place for a label: its offset from the point, its box, and the line to it, in pixels."""

    dx: float
    dy: float
    box: Rectangle
    line: tuple[Rectangle, ...]


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    spreads: Sequence[tuple[float, float]],
    *,
    size: float = 8.5,
) -> list[Rectangle]:
    """Label ``points`` (data coordinates), each at the nearest free place; return the boxes.

    A label that is not next to its point gets a line. ``spreads`` are the ends of a horizontal line
    through each point that must not be covered either.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # computes the layout
    scale = figure.dpi / 72
    frame = Rectangle(*map(float, axes.get_window_extent().extents))
    pixels = [_pixels(axes, *point) for point in points]
    marks = [_around(x, y, MARK * scale) for x, y in pixels]
    taken = list(marks)
    for (_, y), (first, last) in zip(points, spreads, strict=True):
        (left, middle), (right, _) = _pixels(axes, first, y), _pixels(axes, last, y)
        taken.append(Rectangle(left, middle - LINE * scale, right, middle + LINE * scale))
    placed: list[Rectangle] = []
    for point, (x, y), text in zip(points, pixels, labels, strict=True):
        label = axes.annotate(
            text, point, (0, 0), textcoords="offset points", fontsize=size, color=INK
        )
        label.set(ha="center", va="center")
        extent = label.get_window_extent()
        half = (float(extent.width) / 2 + 1, float(extent.height) / 2 + 1)
        crossed = [mark for mark in marks if not (mark.left < x < mark.right)]
        place = _best_place(_places(x, y, half, scale), taken, (*placed, *crossed), frame)
        label.set_position((place.dx / scale, place.dy / scale))
        if place.line:
            end = place.line[-1]
            ends = axes.transData.inverted().transform([(x, y), (end.left, end.bottom)])
            axes.plot(ends[:, 0], ends[:, 1], color=QUIET, linewidth=0.6, zorder=1)
        taken += (place.box, *place.line)
        placed.append(place.box)
    return placed


def _best_place(
    places: Iterator[LabelPlace],
    taken: Sequence[Rectangle],
    crossed: Sequence[Rectangle],
    frame: Rectangle,
) -> LabelPlace:
    """Return the place that covers least of ``taken``, and whose line crosses least."""

    def covered(place: LabelPlace) -> float:
        under = sum(place.box.overlap(other) for other in taken) + place.box.outside(frame)
        return under + 20 * sum(piece.overlap(box) for piece in place.line for box in crossed)

    return min(places, key=covered)


def _places(x: float, y: float, half: tuple[float, float], scale: float) -> Iterator[LabelPlace]:
    for ring in range(RINGS):
        distance = (NEAR + ring * STEP) * scale
        for angle in ANGLES:
            along, up = cos(angle * pi / 180), sin(angle * pi / 180)
            dx = distance * along + half[0] * round(along * 1.4)
            dy = distance * up + half[1] * round(up)
            box = Rectangle(x + dx - half[0], y + dy - half[1], x + dx + half[0], y + dy + half[1])
            yield LabelPlace(dx, dy, box, _line(x, y, box) if ring else ())


def _line(x: float, y: float, box: Rectangle) -> tuple[Rectangle, ...]:
    """Return pieces of the line from a point to the nearest point of ``box``."""
    end = (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top))
    ways = np.linspace(0, 1, PIECES + 1)[1:]
    steps = [(x + way * (end[0] - x), y + way * (end[1] - y)) for way in ways.tolist()]
    return tuple(Rectangle(*step, step[0] + LINE, step[1] + LINE) for step in steps)


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    found = axes.transData.transform((x, y))
    return float(found[0]), float(found[1])


def _around(x: float, y: float, radius: float) -> Rectangle:
    return Rectangle(x - radius, y - radius, x + radius, y + radius)

"""SVG drawings of shapes and text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from xml.etree import ElementTree as ET

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Widths of characters of DejaVu Sans, the widest of the usual fonts, relative to its size.
WIDTHS = {
    sign: width
    for width, signs in (
        (0.3, "'IJijl"),
        (0.35, " ,./:;\\|·"),
        (0.4, "()-[]ft"),
        (0.45, "!r"),
        (0.55, '"*_`?csz'),
        (0.6, "FLkvxy"),
        (0.65, "$0123456789EPSTYabdeghnopqu{}"),
        (0.7, "ABCKRVXZ"),
        (0.8, "&DGHNOQU"),
        (0.85, "#+<=>^w~×→"),
    )
    for sign in signs
}


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return an upper estimate of the width of ``text``, in the units of ``size``."""
    return size * sum(WIDTHS.get(sign, 1.0) for sign in text) * (1.12 if bold else 1.0)


class Drawing:
    """An SVG document."""

    def __init__(self) -> None:
        self._root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
        self._root.set("font-family", FONTS)
        self._parent = self._root

    @contextmanager
    def group(self, name: str, title: str = "", **data: object) -> Iterator[None]:
        """Group what the ``with`` block draws.

        Args:
            name: the group's class.
            title: shown on hovering and read by screen readers.
            data: ``data-*`` attributes.
        """
        element = ET.SubElement(self._parent, "g")
        element.set("class", name)
        for key, value in data.items():
            element.set(f"data-{key}", str(value))
        if title:
            ET.SubElement(element, "title").text = printable(title)
        outer, self._parent = self._parent, element
        yield
        self._parent = outer

    def rectangle(
        self, corner: Point, size: Point, *, fill: str, stroke: str = "none", radius: float = 0
    ) -> None:
        """Draw a rectangle from its upper left ``corner``."""
        (x, y), (width, height) = corner, size
        element = self._add("rect", fill, stroke, x=x, y=y, width=width, height=height)
        if radius:
            element.set("rx", _number(radius))

    def circle(self, centre: Point, radius: float, *, fill: str, stroke: str = "none") -> None:
        """Draw a circle."""
        self._add("circle", fill, stroke, cx=centre[0], cy=centre[1], r=radius)

    def line(
        self, *points: Point, stroke: str, width: float = 1, arrow: bool = False, bend: float = 0
    ) -> None:
        """Draw a line through ``points``, its corners rounded by ``bend``; ``arrow`` ends it."""
        path = f"M{_pair(points[0])}"
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            path += f"L{_pair(_towards(corner, before, bend))}"
            path += f"Q{_pair(corner)} {_pair(_towards(corner, after, bend))}"
        element = self._add("path", "none", stroke)
        element.set("d", path + f"L{_pair(points[-1])}")
        element.set("stroke-width", _number(width))
        if arrow:
            self._arrow(points[-2], points[-1], stroke)

    def text(
        self,
        at: Point,
        text: str,
        *,
        size: float,
        fill: str,
        anchor: Anchor = "start",
        bold: bool = False,
    ) -> None:
        """Write one line of text with its baseline at ``at``."""
        element = ET.SubElement(self._parent, "text", x=_number(at[0]), y=_number(at[1]))
        element.set("font-size", _number(size))
        element.set("fill", fill)
        if anchor != "start":
            element.set("text-anchor", anchor)
        if bold:
            element.set("font-weight", "600")
        element.text = printable(text)

    def to_svg(self, size: Point, *, title: str, background: str) -> str:
        """Return the document as text, ``size`` wide and high."""
        width, height = map(_number, size)
        self._root.set("viewBox", f"0 0 {width} {height}")
        self._root.set("width", width)
        self._root.set("height", height)
        sheet = ET.Element("rect", width="100%", height="100%", fill=background)
        self._root.insert(0, sheet)
        heading = ET.Element("title")
        heading.text = printable(title)
        self._root.insert(0, heading)
        ET.indent(self._root, " ")
        return ET.tostring(self._root, encoding="unicode") + "\n"

    def _add(self, tag: str, fill: str, stroke: str, **numbers: float) -> ET.Element:
        element = ET.SubElement(self._parent, tag, fill=fill, stroke=stroke)
        for key, value in numbers.items():
            element.set(key, _number(value))
        return element

    def _arrow(self, before: Point, tip: Point, fill: str) -> None:
        (x, y), (back_x, back_y) = tip, _towards(tip, before, 5, most=1)
        across = ((y - back_y) / 2, (back_x - x) / 2)
        left, right = ((back_x + side * across[0], back_y + side * across[1]) for side in (1, -1))
        element = self._add("path", fill, "none")
        element.set("d", f"M{_pair(left)}L{_pair(tip)}L{_pair(right)}Z")


def printable(text: str) -> str:
    """Return ``text`` with unprintable characters replaced."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _towards(point: Point, other: Point, distance: float, *, most: float = 0.5) -> Point:
    """Return the point at ``distance`` from ``point`` to ``other``, at ``most`` this part of it."""
    x, y = other[0] - point[0], other[1] - point[1]
    length = (x * x + y * y) ** 0.5
    part = min(distance / length, most) if length else 0.0
    return point[0] + part * x, point[1] + part * y


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"

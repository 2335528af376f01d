"""Sizes, in pixels on a page 900 wide, and colours of diagrams.

Fills differ in lightness, so a grey print is readable; hues are Okabe and Ito's, which colour-blind
readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mobilette.reporting.boxes import Kind

PAGE, MARGIN = 900, 24
# Left edges of the columns (stage, repetition, start of lines, first box) and width of the bars.
STAGE, REPEAT, START, FIRST = 24, 122, 168, 200
BARS = 100
# Right end of lines; longer ones widen the page.
END = PAGE - MARGIN - BARS - 16
BOX, BOX_HEIGHT, BOX_PADDING, GAP = 88, 46, 6, 20
LINE_GAP, LANE_GAP, BYPASS, STAGE_PADDING, STAGE_HEIGHT = 14, 8, 12, 12, 46
# Radius of a join, room for a fork, and room between a line and the next one on its shelf.
JOIN, FORK, LEAD = 8, 18, 12

HUGE, LARGE, MEDIUM, SMALL, TINY = 20, 13, 11, 10, 9.5
INK, QUIET, FAINT, PAPER = "#1b2530", "#56616d", "#d5dade", "#ffffff"
MADDS, PARAMS = "#3b4d61", "#b4c0cc"


class Colour(NamedTuple):
    """Colours of a box."""

    fill: str
    edge: str


COLOURS: Mapping[Kind, Colour] = MappingProxyType(
    {
        "full convolution": Colour("#98bce0", "#0b5394"),
        "pointwise": Colour("#e4f1fb", "#4a90c4"),
        "depthwise": Colour("#f8d48f", "#c07a00"),
        "grouped": Colour("#e6c3da", "#a3437f"),
        "squeeze-excite": Colour("#bde4d5", "#00805f"),
        "shuffle": Colour("#f9f4bd", "#978f00"),
        "pool": Colour("#e3e5e7", "#777f87"),
        "linear": Colour("#f2bfa3", "#b84a00"),
    }
)

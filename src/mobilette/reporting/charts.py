"""Charts inside a page: matplotlib's SVG, with the page's font and colours.

matplotlib is a core dependency, and its SVG needs no script: the page stays one file, prints, and
can be read by a screen reader. Text stays text; colours become CSS variables of the page, which has
a light and a dark set of them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING

from mobilette.errors import visible
from mobilette.reporting.style import FAINT, INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish.
BLUE, SKY, GREEN, RED, AMBER = "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00"
PALE, MIDDLE, DARK = "#8cbfe3", "#2f7fb9", "#0a3d66"  # weak to strong
_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        INK: "--ink",
        QUIET: "--quiet",
        FAINT: "--line",
        BLUE: "--blue",
        SKY: "--sky",
        GREEN: "--green",
        RED: "--red",
        AMBER: "--amber",
        PALE: "--pale",
        MIDDLE: "--middle",
        DARK: "--dark",
        "#ffffff": "--paper",
    }
)
FONT = "DejaVu Sans"  # its metrics lay the text out; the page's fonts are narrower
WIDE, HIGH = 4.6, 2.6  # inches
_SCALE = 1.4  # pixels of the page, at most, for a unit of the drawing


class Chart:
    """A chart that is being drawn; ``svg`` is it once the ``with`` block of `chart` has ended."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure, self.axes, self.svg = figure, axes, ""


@contextmanager
def chart(name: str, label: str, *, width: float = WIDE, height: float = HIGH) -> Iterator[Chart]:
    """Yield a `Chart` to draw on.

    Args:
        name: unique in the page: the SVG's ids begin with it.
        label: what it shows, for those who do not see it.
        width: in inches of 72 units, of which the page makes as many pixels or more.
        height: the same.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "mobilette",
            "font.family": FONT,
            "font.size": 9,
            "text.color": INK,
            "text.parse_math": False,  # names may contain dollars
            "axes.edgecolor": QUIET,
            "axes.labelcolor": QUIET,
            "axes.linewidth": 0.7,
            "xtick.color": QUIET,
            "ytick.color": QUIET,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
        }
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=2)
        drawn = Chart(figure, axes)
        yield drawn
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    drawn.svg = inline(content.getvalue(), name=name, label=label)


def inline(svg: str, *, name: str, label: str) -> str:
    """Return matplotlib's SVG document as an element of a page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = body.replace(f"'{FONT}'", "var(--sans)")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    opening, _, rest = body.partition(">")
    found = re.search(r'viewBox="([^"]*)"', opening)
    box = found[1] if found else "0 0 1 1"
    text, width = escape(visible(label), quote=True), _SCALE * float(box.split()[2])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'class="chart" viewBox="{box}" style="max-width: {width:.0f}px" role="img" '
        f'aria-label="{text}">{rest.strip()}'
    )

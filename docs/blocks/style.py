"""Colours of the figures, and how they are written: the same file for the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by people with any kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GREY = "#222222", "#8A8A8A"
STYLE = Path(__file__).with_name("figures.mplstyle")


def write(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure and write it to ``path``; the ending says in which format.

    A reader's own matplotlib settings have no say, and no date gets into the file.
    """
    with mpl.rc_context(fname=STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        draw().savefig(path, dpi=150, facecolor="white", metadata=metadata)

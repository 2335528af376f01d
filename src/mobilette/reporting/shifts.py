"""Accuracy under everyday shifts, as a table and as a chart."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mobilette.arguments import checked
from mobilette.data.shifts import SHIFTS, STRENGTHS
from mobilette.errors import one_of
from mobilette.files import check_new_file, write_bytes
from mobilette.reporting.style import FAINT, INK
from mobilette.verification.shifts import Interval, Robustness, UnderShift

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("shift", *(f"strength {strength}" for strength in STRENGTHS))
# Of strengths 1 to 3, the darker the stronger.
COLOURS = ("#8cbfe3", "#2f7fb9", "#0a3d66")
NAMES = {"top1": "top-1", "mean_average_precision": "mean average precision"}


def by_shift(robustness: Robustness) -> dict[str, list[UnderShift]]:
    """Return the rows of every shift, the weakest strength first."""
    found: dict[str, list[UnderShift]] = {shift: [] for shift in SHIFTS}
    for row in sorted(robustness.rows, key=lambda row: row.strength):
        found.setdefault(row.shift, []).append(row)
    return {shift: rows for shift, rows in found.items() if rows}


def table_rows(robustness: Robustness) -> list[tuple[str, ...]]:
    """Return the cells of a table with `COLUMNS`: score, its interval, points lost."""
    return [(shift, *map(_cell, rows)) for shift, rows in by_shift(robustness).items()]


def _cell(row: UnderShift) -> str:
    return f"{_percent(row.score)} {_between(row.interval)}{100 * row.drop:5.1f}"


def _percent(score: float) -> str:
    return "100%" if score == 1 else f"{100 * score:.1f}%"


def _between(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, high = (round(100 * end) for end in interval)
    return f"{f'({low}-{high})':<8} "


def headline(robustness: Robustness) -> str:
    """Return the score without a shift and the mean over all, in one line."""
    between = ""
    if robustness.interval is not None:
        low, high = robustness.interval
        between = f" (95%: {low:.2%} to {high:.2%})"
    return (
        f"{NAMES[robustness.measure]} {robustness.unshifted:.2%}{between} without a shift, "
        f"{robustness.mean:.2%} on average under shifts; {robustness.images:,} images"
    )


def explanation(robustness: Robustness) -> str:
    """Return what a cell of the table shows."""
    within = ", 95% interval" if robustness.interval is not None else ""
    return f"each: {NAMES[robustness.measure]}{within}, points lost"


@checked
def check_chart(out: Path, *, force: bool = False) -> None:
    """Raise `InputError` unless `write_chart` can write the file ``out``."""
    one_of(out.suffix, (".png",), f"{out}: the suffix")
    check_new_file(out, force=force)


def write_chart(robustness: Robustness, path: Path) -> Path:
    """Write the chart as a PNG: every shift's scores, the most harmful shift first; return it.

    Raises:
        InputError: it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(7, 4.6), dpi=100, layout="constrained", facecolor="white")
        _draw(figure.add_subplot(), robustness)
        content = io.BytesIO()
        figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
    return path


def _draw(axes: Axes, robustness: Robustness) -> None:
    shifts = by_shift(robustness)
    names = sorted(shifts, key=lambda shift: shifts[shift][-1].score)
    if robustness.interval is not None:
        low, high = robustness.interval
        axes.axvspan(100 * low, 100 * high, color=FAINT, alpha=0.5, linewidth=0)
    axes.axvline(100 * robustness.unshifted, color=INK, linewidth=1, label="no shift")
    for height, name in enumerate(names):
        for row, colour in zip(shifts[name], COLOURS, strict=False):
            at = height + 0.22 * (row.strength - 2)
            if row.interval is not None:
                ends = [100 * end for end in row.interval]
                axes.plot(ends, [at, at], color=colour, linewidth=1.2, zorder=2)
            label = f"strength {row.strength}" if height == 0 else None
            axes.scatter([100 * row.score], [at], s=26, color=colour, zorder=3, label=label)
    lines = "" if robustness.interval is None else " (lines: 95% intervals)"
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(
        f"{NAMES[robustness.measure]}, %, {robustness.images:,} images{lines}", color=INK
    )
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)

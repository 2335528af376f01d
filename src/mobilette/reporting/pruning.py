"""A chart of the channels left by pruning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mobilette.files import write_bytes
from mobilette.reporting.style import FAINT, INK, MADDS, PARAMS, QUIET
from mobilette.workflows.prune_record import Pruning

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGE = "pruning.png"
LINE = 0.17  # inches per layer


def write_image(pruning: Pruning, run: Path) -> None:
    """Write a PNG into ``run``: each layer's channels before pruning (light) and after (dark).

    Raises:
        InputError: it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    last = pruning.steps[-1]
    with rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        height = 1.6 + LINE * len(pruning.channels)
        figure = Figure(figsize=(8, height), dpi=120, layout="constrained")
        _draw_bars(figure.add_subplot(), pruning.channels, last.channels)
        figure.suptitle(
            f"{last.madds / pruning.madds:.1%} of the mult-adds, "
            f"{last.params / pruning.params:.1%} of the parameters; "
            f"accuracy {pruning.accuracy:.2%} before, {last.tuned:.2%} after",
            x=0.01,
            ha="left",
            color=INK,
            fontsize=10,
        )
        content = io.BytesIO()
        figure.savefig(content, format="png")
    write_bytes(run / IMAGE, content.getvalue())


def _draw_bars(axes: Axes, before: dict[str, int], kept: dict[str, int]) -> None:
    names = list(before)
    rows = range(len(names))
    left = [kept[name] for name in names]
    axes.barh(rows, list(before.values()), height=0.8, color=PARAMS, label="before")
    axes.barh(rows, left, height=0.8, color=MADDS, label="kept")
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # hides grid lines
    for row, name in zip(rows, names, strict=True):
        part = f"{kept[name]:,} of {before[name]:,}" if kept[name] < before[name] else "all"
        axes.text(before[name], row, f" {part}", va="center", fontsize=7, color=QUIET, bbox=behind)
    axes.set_yticks(rows, [name.removesuffix(".conv") for name in names], fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * max(before.values()))
    axes.set_xlabel("channels")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")

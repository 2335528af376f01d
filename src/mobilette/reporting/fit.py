"""The picture of a fit: accuracy against cost, who raced, who won, and the budget."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilette.counting.amounts import in_unit
from mobilette.files import write_bytes
from mobilette.reporting.style import FAINT, INK, PARAMS, QUIET
from mobilette.workflows.fit_record import Fitted, read_plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGE = "fit.png"
CHOSEN = "#b84a00"
_COST = {"params": "params", "madds": "madds", "size": "size_bytes", "ram": "ram_bytes"}
AXIS = {
    "params": "parameters",
    "madds": "mult-adds",
    "size": "bytes of the weights",
    "ram": "bytes of the activations alive at once",
}


def write_image(fitted: Fitted) -> Path:
    """Write fit.png into the folder of a fit and return its path.

    Each contender's accuracy in its last round is drawn over the quantity that the budget limits
    first (mult-adds if it limits none that is counted); the accuracy-cost front joins those that
    are not beaten at a lower cost.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    limited = [term for term in fitted.terms if term.quantity in _COST]
    quantity = limited[0].quantity if limited else "madds"
    with rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(8, 4.6), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, fitted, quantity)
        for term in limited[:1]:
            axes.axvline(term.limit, color=QUIET, linestyle="--", linewidth=1)
            across = axes.get_xaxis_transform()
            axes.text(term.limit, 0.02, f"{term.text} ", ha="right", color=QUIET, transform=across)
        axes.set_xlabel(f"{AXIS[quantity]} (logarithmic)")
        axes.set_ylabel(f"{fitted.measure} on the held-out images")
        axes.set_xscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            formatted(lambda value, _: in_unit(quantity, value))
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(fitted.why, x=0.01, ha="left", color=INK, fontsize=9, wrap=True)
        content = io.BytesIO()
        figure.savefig(content, format="png")
    path = fitted.path / IMAGE
    write_bytes(path, content.getvalue())
    return path


def _draw(axes: Axes, fitted: Fitted, quantity: str) -> None:
    costs = {
        each.key: float(getattr(each, _COST[quantity]))
        for each in read_plan(fitted.path).contenders
    }
    last: dict[str, dict[str, Any]] = {}
    for line in fitted.lines:
        if line["what"] == "trained":
            last[line["key"]] = line
    points = [(costs[key], line["top1"], key) for key, line in last.items() if key in costs]
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], color=PARAMS, s=36)
    for x, y, key in points:
        axes.annotate(
            key, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6, color=QUIET
        )
    front, best = [], -1.0
    for x, y, _ in sorted(points):
        if y > best:
            front.append((x, y))
            best = y
    axes.plot([x for x, _ in front], [y for _, y in front], color=PARAMS, linewidth=1)
    if fitted.key in costs:
        axes.scatter([costs[fitted.key]], [fitted.top1], color=CHOSEN, s=70, zorder=3)
        axes.annotate(
            f"chosen: {fitted.top1:.1%}",
            (costs[fitted.key], fitted.top1),
            xytext=(-8, 8),
            ha="right",
            textcoords="offset points",
            color=CHOSEN,
        )

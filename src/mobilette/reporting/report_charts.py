"""The charts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobilette.counting.amounts import in_unit
from mobilette.errors import visible
from mobilette.reporting.benchmark import MARKS
from mobilette.reporting.charts import AMBER, BLUE, DARK, GREEN, MIDDLE, PALE, RED, chart
from mobilette.reporting.fit import AXIS
from mobilette.reporting.labels import place_labels
from mobilette.reporting.shifts import by_shift
from mobilette.reporting.style import FAINT, INK, QUIET
from mobilette.verification.shifts import Robustness
from mobilette.verification.statistics import Bin
from mobilette.workflows.report_answers import Measured
from mobilette.workflows.report_values import ArtifactRecord, FitRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STRENGTHS = (PALE, MIDDLE, DARK)
_SQUARE = 2.75  # inches
_TICKS = 6


def accuracy_curve(history: Sequence[Mapping[str, float]]) -> str:
    """Return held-out accuracy by epoch."""
    score = "mean_average_precision" if "mean_average_precision" in history[-1] else "top1"
    name = "top-1" if score == "top1" else "mean average precision"
    best = max(history, key=lambda row: row[score])
    label = f"Held-out {name} by epoch: {best[score]:.1%} at best, after epoch {best['epoch']:g}"
    from matplotlib.ticker import MaxNLocator

    with chart("accuracy", label) as drawn:
        axes = drawn.axes
        epochs = [row["epoch"] for row in history]
        values = [100 * row[score] for row in history]
        axes.plot(epochs, values, color=BLUE, linewidth=1.6)
        axes.scatter([best["epoch"]], [100 * best[score]], s=26, color=BLUE, zorder=3)
        at = (best["epoch"], 100 * best[score])
        ends = {epochs[0]: "left", epochs[-1]: "right"}
        axes.annotate(
            f"best {best[score]:.1%}",
            at,
            (0, 6),
            textcoords="offset points",
            ha=ends.get(best["epoch"], "center"),
        )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(f"{name}, %" if len(name) > 8 else f"held-out {name}, %")
        axes.set_ylim(max(0, min(values) - 5), min(max(values) + 12, 112))
        axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])
    return drawn.svg


def loss_curve(history: Sequence[Mapping[str, float]]) -> str:
    """Return the loss of training and of held-out images by epoch."""
    last = history[-1]
    label = f"Loss by epoch: {last['val_loss']:.3f} on held-out images at the end" + (
        f", {last['train_loss']:.3f} in training" if "train_loss" in last else ""
    )
    from matplotlib.ticker import MaxNLocator

    with chart("loss", label) as drawn:
        axes = drawn.axes
        for column, name, colour in (
            ("train_loss", "training (augmented, smoothed)", AMBER),
            ("val_loss", "held-out", BLUE),
        ):
            rows = [row for row in history if column in row and row["epoch"] > 0]
            if rows:
                epochs = [row["epoch"] for row in rows]
                axes.plot(epochs, [row[column] for row in rows], color=colour, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("loss")
        axes.legend(frameon=False, labelcolor=INK, fontsize=8.5)
    return drawn.svg


def reliability_diagram(bins: Sequence[Bin], *, name: str, error: float) -> str:
    """Return how often answers are right by how sure they are; ``name`` is for ids."""
    label = (
        f"Reliability diagram: probability and accuracy are {error:.1%} apart on average. "
        + "; ".join(
            f"{one.low:.0%} to {one.high:.0%}: {one.right:.0%} of {one.images} right"
            for one in bins
            if one.images
        )
    )
    with chart(name, label, width=_SQUARE, height=_SQUARE) as drawn:
        axes = drawn.axes
        most = max(one.images for one in bins)
        for one in bins:
            if one.images:
                middle, width = 50 * (one.low + one.high), 100 * (one.high - one.low) * 0.86
                weight = 0.3 + 0.7 * one.images / most
                axes.bar(middle, 100 * one.right, width, color=BLUE, alpha=weight, linewidth=0)
                ends = [100 * one.right, 100 * one.confidence]
                axes.plot([middle, middle], ends, color=RED, linewidth=1.4)
        axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8, linestyle="--")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("probability, %")
        axes.set_ylabel("right, %")
    return drawn.svg


def coverage_curve(
    measured: Measured, promised: float | None, point: tuple[float, float] | None
) -> str:
    """Return the error of the answers by how many images are answered, the surest first.

    Args:
        measured: has the curve.
        promised: the largest error that is promised.
        point: coverage and error with the promise's threshold.
    """
    whole = measured.coverage[-1][1]
    label = f"Wrong answers by the part of the images answered: {whole:.1%} if all are answered"
    if point is not None and promised is not None:
        label += f"; with the promise of {promised:.1%}, {point[1]:.1%} of {point[0]:.1%}"
    with chart("coverage", label, width=_SQUARE * 1.1, height=_SQUARE) as drawn:
        axes = drawn.axes
        xs = [100 * x for x, _ in measured.coverage]
        ys = [100 * y for _, y in measured.coverage]
        axes.plot(xs, ys, color=BLUE, linewidth=1.6)
        top = max(*ys[len(ys) // 10 :], 100 * (promised or 0), 1) * 1.25
        if promised is not None:
            axes.axhline(100 * promised, color=GREEN, linewidth=1, linestyle="--")
            text = f"promised: at most {promised:.3g}" if promised < 0.001 else ""
            text = text or f"promised: at most {100 * promised:g}%"
            axes.text(1, 100 * promised + top / 60, text, color=INK, fontsize=8.5)
        if point is not None:
            x, y = 100 * point[0], 100 * point[1]
            axes.axvline(x, color=GREEN, linewidth=0.8, linestyle=":")
            axes.scatter([x], [y], s=34, color=GREEN, zorder=3)
            place = (-7, 6)
            axes.annotate(
                f"{point[0]:.1%} answered", (x, y), place, textcoords="offset points", ha="right"
            )
        axes.set_xlim(0, 101)
        axes.set_ylim(0, top)
        axes.set_xlabel("images answered, %")
        axes.set_ylabel("answers wrong, %")
    return drawn.svg


def shifts_chart(robustness: Robustness) -> str:
    """Return the accuracy under every shift, the most harmful first."""
    shifts = by_shift(robustness)
    names = sorted(shifts, key=lambda shift: shifts[shift][-1].score)
    label = (
        f"Accuracy under shifts: {robustness.unshifted:.1%} without; worst under {names[0]}, "
        f"{shifts[names[0]][-1].score:.1%} at strength 3; mean {robustness.mean:.1%}"
    )
    with chart("shifts", label, width=5.4, height=0.23 * len(names) + 0.9) as drawn:
        axes = drawn.axes
        if robustness.interval is not None:
            low, high = robustness.interval
            axes.axvspan(100 * low, 100 * high, color=FAINT, alpha=0.6, linewidth=0)
        axes.axvline(100 * robustness.unshifted, color=INK, linewidth=1, label="no shift")
        for height, name in enumerate(names):
            for row, colour in zip(shifts[name], _STRENGTHS, strict=False):
                text = f"strength {row.strength}" if height == 0 else None
                axes.scatter([100 * row.score], [height], s=30, color=colour, label=text, zorder=3)
            ends = [100 * row.score for row in shifts[name]]
            axes.plot([min(ends), max(ends)], [height, height], color=QUIET, linewidth=0.7)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(right=101)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("accuracy, %")
        axes.legend(
            frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1,
            fontsize=8.5, handletextpad=0.2,
        )  # fmt: skip
    return drawn.svg


def artifacts_chart(records: Sequence[ArtifactRecord]) -> str:
    """Return accuracy over the latency of one image; nothing where no artifact has both."""
    known = [one for one in records if one.latency_ms is not None and one.top1 is not None]
    if not known:
        return ""
    names = [_short(one) for one in known]
    points = [(one.latency_ms or 0.0, 100 * (one.top1 or 0.0)) for one in known]
    label = "Accuracy over latency: " + "; ".join(
        f"{name} {y:.1f}% in {x:.2f} ms" for name, (x, y) in zip(names, points, strict=True)
    )
    with chart("artifacts", label, height=3.1) as drawn:
        axes = drawn.axes
        spreads = [one.spread_ms or (x, x) for one, (x, _) in zip(known, points, strict=True)]
        ys = [y for _, y in points]
        room = max(max(ys) - min(ys), 1.0) * 0.4
        lows, highs = zip(*spreads, strict=True)
        axes.set_xscale("log")
        axes.set_xlim(min(lows) / 1.5, max(highs) * 1.6)
        axes.set_ylim(min(ys) - room, max(ys) + room)
        for one, (x, y), (low, high) in zip(known, points, spreads, strict=True):
            marker, colour = MARKS[one.precision]
            face = "none" if one.verified is False else colour
            axes.plot([low, high], [y, y], color=colour, linewidth=1)
            axes.scatter([x], [y], marker=marker, s=44, facecolors=face, edgecolors=colour)
        _log_ticks(axes)
        axes.set_xlabel("milliseconds for one image (median, 10% to 90%)")
        axes.set_ylabel("top-1, %")
        place_labels(axes, points, [visible(name) for name in names], spreads)
    return drawn.svg


def _short(record: ArtifactRecord) -> str:
    return visible(Path(record.path).name)


def _log_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    steps = (1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 3)
    ticks = [step * 10.0**power for power in range(-5, 6) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def fit_chart(fit: FitRecord) -> str:
    """Return the accuracy of a fit's candidates over what the budget limits."""
    raced = [one for one in fit.candidates if one.top1 is not None]
    if not raced:
        return ""
    chosen = [one for one in raced if one.key == fit.chosen]
    label = f"Accuracy over {AXIS[fit.quantity]} of {len(raced)} networks that raced"
    if chosen:
        label += f"; chosen: {fit.chosen}"
    with chart("fit", label, width=5.8, height=3.1) as drawn:
        axes = drawn.axes
        points = [(one.cost, 100 * (one.top1 or 0.0)) for one in raced]
        front, best = [], -1.0
        for x, y in sorted(points):
            if y > best:
                front.append((x, y))
                best = y
        axes.plot([x for x, _ in front], [y for _, y in front], color=BLUE, linewidth=1)
        axes.scatter([x for x, _ in points], [y for _, y in points], color=BLUE, s=26, zorder=2)
        axes.set_xscale("log")
        if fit.limit is not None:
            axes.axvline(fit.limit, color=QUIET, linestyle="--", linewidth=0.9)
            across = axes.get_xaxis_transform()
            axes.text(fit.limit, 0.02, "the budget ", ha="right", color=QUIET, transform=across)
        for one in chosen:
            at = (one.cost, 100 * (one.top1 or 0.0))
            axes.scatter([at[0]], [at[1]], color=RED, s=60, zorder=3)
        _amount_ticks(axes, fit.quantity)
        ys = [y for _, y in points]
        room = max(0.12 * (max(ys) - min(ys)), 2.0)
        axes.set_ylim(max(min(ys) - room, -room), max(ys) + room)
        axes.set_xlabel(AXIS[fit.quantity])
        axes.set_ylabel("top-1 after its last training, %")
        named = [*chosen, *[one for one in raced if one.key != fit.chosen][:8]]
        places = [(one.cost, 100 * (one.top1 or 0.0)) for one in named]
        texts = [visible(one.key) for one in named]
        place_labels(axes, places, texts, [(x, x) for x, _ in places], size=7.5)
    return drawn.svg


def _amount_ticks(axes: Axes, quantity: str) -> None:
    """Label a logarithmic axis of bytes or counts, at few round numbers."""
    low, high = axes.get_xlim()
    ticks = [step * 10.0**power for power in range(12) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) > _TICKS:
        ticks = [tick for tick in ticks if f"{tick:.0e}"[0] == "1"]
    axes.set_xticks(ticks, [in_unit(quantity, tick).replace(".00", "") for tick in ticks])
    axes.set_xticks([], minor=True)

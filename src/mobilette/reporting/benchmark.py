"""A benchmark as a Markdown table and as a plot of accuracy over latency."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill, shorten
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from mobilette.errors import visible
from mobilette.files import write_bytes, write_json, write_text
from mobilette.reporting.labels import place_labels
from mobilette.reporting.style import FAINT, INK, QUIET
from mobilette.verification.benchmark import BENCH, Benchmark, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 4  # level artifacts listed by name
NAME = BENCH.removesuffix(".json")
COLUMNS = (
    "artifact",
    "engine",
    "precision",
    "verified",
    "top-1",
    "ms, median",
    "p10",
    "p90",
    "n",
    "images/s",
    "batch",
    "load ms",
    "memory MB",
    "size MB",
)
# Characters per line above and below the plot; the distance between marks, as a fraction of the
# range of accuracies; the width of a mark, as a factor of latency.
WIDTH, WIDTH_BELOW = 95, 150
LANE, MARK = 0.022, 1.02
# Okabe and Ito's colours; the markers differ, too.
MARKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fp32": ("o", "#0072b2"),
        "fp16": ("^", "#56b4e9"),
        "bf16": ("D", "#009e73"),
        "int8": ("s", "#d55e00"),
    }
)


def short_names(rows: Sequence[Row]) -> list[str]:
    """Return each artifact's path relative to their common folder, and the names of runs."""
    paths = [Path(row.artifact).resolve() for row in rows]
    parents = [path.parent for path, row in zip(paths, rows, strict=True) if row.target is not None]
    try:
        common = Path(os.path.commonpath(parents)) if parents else Path()
    except ValueError:  # several drives (Windows)
        return [row.artifact for row in rows]
    return [
        path.name if row.target is None else path.relative_to(common).as_posix()
        for path, row in zip(paths, rows, strict=True)
    ]


def table_rows(benchmark: Benchmark) -> list[tuple[str, ...]]:
    """Return the rows of the table with `COLUMNS`."""
    return [
        _cells(row, name)
        for row, name in zip(benchmark.rows, short_names(benchmark.rows), strict=True)
    ]


def remarks_on(benchmark: Benchmark) -> list[str]:
    """Return the reasons why artifacts are not verified or not timed, one line each."""
    named = list(zip(benchmark.rows, short_names(benchmark.rows), strict=True))
    reasons = [f"{name}: {'; '.join(row.reasons)}" for row, name in named if row.reasons]
    return reasons + [
        f"{name}: measured on {row.images:,} images, {row.trained_left_out:,} left out that it was "
        "trained on"
        for row, name in named
        if row.trained_left_out
    ]


def conclusion(benchmark: Benchmark) -> str:
    """Name the fastest verified artifact, or those that are level, in one line."""
    names = short_names(benchmark.rows)
    if benchmark.level:
        by_path = dict(zip((row.artifact for row in benchmark.rows), names, strict=True))
        level = [by_path[path] for path in benchmark.level]
        more = len(level) - NAMED
        level = [*level[:NAMED], f"{more} more"] if more > 1 else level
        return f"{', '.join(level[:-1])} and {level[-1]} are level: their latencies overlap"
    for row, name in zip(benchmark.rows, names, strict=True):
        if row.artifact == benchmark.fastest and row.latency_ms is not None:
            return f"fastest verified artifact: {name}, {row.latency_ms.median:.2f} ms"
    return "no artifact is both verified and timed"


def conditions(benchmark: Benchmark) -> str:
    """Return the machine, threads, rounds and images, in one line."""
    images = max((row.images for row in benchmark.rows), default=0)
    data = f", accuracy on {images:,} images of {benchmark.data}" if benchmark.data else ""
    threads = "thread" if benchmark.threads == 1 else "threads"
    return (
        f"{benchmark.machine}; {benchmark.threads} {threads}, {benchmark.rounds} rounds in turns"
        f"{data}"
    )


def to_markdown(benchmark: Benchmark) -> str:
    """Return the table, the conclusion, the conditions and remarks."""
    lines = [COLUMNS, ("---",) * 4 + ("--:",) * (len(COLUMNS) - 4), *table_rows(benchmark)]
    table = "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)
    parts = [table, visible(conclusion(benchmark)), visible(f"{conditions(benchmark)}.")]
    remarks = [visible(line) for line in remarks_on(benchmark)]
    parts += ["\n".join(f"- {line}" for line in remarks)] if remarks else []
    return "\n\n".join(parts) + "\n"


def write_benchmark(benchmark: Benchmark, folder: Path) -> list[Path]:
    """Write bench.json, bench.md and, where accuracies are known, bench.svg and bench.png.

    Returns:
        The files.

    Raises:
        InputError: one cannot be written.
    """
    files = {name: folder / f"{NAME}.{name}" for name in ("json", "md", "svg", "png")}
    write_json(files["json"], benchmark.to_json())
    write_text(files["md"], to_markdown(benchmark))
    drawn = [kind for kind in ("svg", "png") if _points(benchmark)]
    for kind in drawn:
        write_bytes(files[kind], draw(benchmark, "svg" if kind == "svg" else "png"))
    return [files[name] for name in ("json", "md", *drawn)]


def draw(benchmark: Benchmark, kind: Literal["svg", "png"]) -> bytes:
    """Return the plot: top-1 accuracy over the latency of one image, one mark per artifact."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    points = _points(benchmark)
    with rc_context(
        {
            "svg.hashsalt": "mobilette",
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "text.parse_math": False,  # names may contain dollars
        }
    ):
        figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        _set_up(axes, points)
        places = moved_apart([row for row, _ in points])
        for precision in MARKS:
            chosen = [
                (row, place)
                for (row, _), place in zip(points, places, strict=True)
                if row.precision == precision
            ]
            _scatter(axes, precision, chosen)
        axes.legend(frameon=False, loc="best")
        title = fill(visible(conclusion(benchmark)), WIDTH)
        axes.set_title(title, loc="left", color=INK)
        below = "\n".join(_below(benchmark, moved=places != [_place(row) for row, _ in points]))
        figure.text(0.01, -0.02, below, fontsize=8, color=QUIET, va="top")
        spreads = [(row.latency_ms.p10, row.latency_ms.p90) for row, _ in points if row.latency_ms]
        place_labels(axes, places, [visible(name) + _sign(row) for row, name in points], spreads)
        content = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(content, format=kind, metadata=metadata, bbox_inches="tight")
    return content.getvalue()


def _points(benchmark: Benchmark) -> list[tuple[Row, str]]:
    return [
        (row, name)
        for row, name in zip(benchmark.rows, short_names(benchmark.rows), strict=True)
        if row.latency_ms is not None and row.top1 is not None
    ]


def moved_apart(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Return the positions of the marks, moved up or down where their intervals overlap."""
    lane = LANE * _span([100 * (row.top1 or 0.0) for row in rows])
    taken: list[tuple[float, float, float]] = []
    for row in rows:
        x, y = _place(row)
        assert row.latency_ms is not None
        low, high = min(row.latency_ms.p10, x / MARK), max(row.latency_ms.p90, x * MARK)
        near = [at for left, right, at in taken if left <= high and low <= right]
        steps = (y + sign * step * lane for step in range(len(rows) + 1) for sign in (1, -1))
        y = next(at for at in steps if all(abs(at - other) > 0.99 * lane for other in near))
        taken.append((low, high, y))
    return [(_place(row)[0], at) for row, (_, _, at) in zip(rows, taken, strict=True)]


def _span(accuracies: Sequence[float]) -> float:
    return max(max(accuracies) - min(accuracies), 4.0)


def _below(benchmark: Benchmark, *, moved: bool) -> Iterator[str]:
    """Yield the lines below the plot: the conditions, and the artifacts left out, with reasons."""
    yield fill(visible(conditions(benchmark)), WIDTH_BELOW)
    if moved:
        yield "Overlapping marks are moved up or down; the table has the exact numbers."
    shown = {name for _, name in _points(benchmark)}
    for row, name in zip(benchmark.rows, short_names(benchmark.rows), strict=True):
        if name not in shown:
            what = "failed" if row.verified is False else "not timed" if row.top1 else "not run"
            why = f": {'; '.join(row.reasons)}" if row.reasons else ""
            yield shorten(visible(f"{name}: {what}{why}"), WIDTH_BELOW, placeholder=" ...")


def _place(row: Row) -> tuple[float, float]:
    assert row.latency_ms is not None
    assert row.top1 is not None
    return row.latency_ms.median, 100 * row.top1


def _sign(row: Row) -> str:
    return " (not verified)" if row.verified is False else ""


def _set_up(axes: Axes, points: Sequence[tuple[Row, str]]) -> None:
    latencies, accuracies = zip(*(_place(row) for row, _ in points), strict=True)
    span = _span(accuracies)
    axes.set_xscale("log")
    axes.set_xlim(min(latencies) / 1.4, max(latencies) * 1.6)
    axes.set_ylim(min(accuracies) - 0.25 * span, min(max(accuracies) + 0.25 * span, 103))
    ticks = _ticks(min(latencies) / 1.4, max(latencies) * 1.6)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("latency of one image, ms: median, and the line from the 10th to the 90th %")
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers from ``low`` to ``high``, at least three per power of ten."""
    steps = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5)
    found = [step * 10.0**power for power in range(-5, 6) for step in steps]
    return [tick for tick in found if low <= tick <= high]


def _scatter(axes: Axes, precision: str, rows: Sequence[tuple[Row, tuple[float, float]]]) -> None:
    """Draw a mark for each of ``rows``, filled if it is verified or the run itself."""
    if not rows:
        return
    marker, colour = MARKS[precision]
    axes.scatter([], [], marker=marker, s=55, color=colour, label=precision)
    for row, (x, y) in rows:
        inside = "white" if row.verified is False else colour
        axes.scatter([x], [y], marker=marker, s=55, color=inside, edgecolors=colour, zorder=3)
        if row.latency_ms is not None:
            axes.plot([row.latency_ms.p10, row.latency_ms.p90], [y, y], color=colour, linewidth=1)


def _cells(row: Row, name: str) -> tuple[str, ...]:
    latency, batch = row.latency_ms, row.best_batch
    ran = row.engine is not None or row.target == "mcu"  # which is not timed
    unknown = "the run" if row.target is None else "cannot be" if ran else "not run"
    verified = {True: "yes", False: "NO", None: unknown}
    return (
        name,
        row.engine or "-",
        row.precision,
        verified[row.verified],
        f"{row.top1:.2%}" if row.top1 is not None else "-",
        *((f"{x:.2f}" for x in (latency.median, latency.p10, latency.p90)) if latency else "---"),
        f"{latency.n:,}" if latency else "-",
        f"{batch.images_per_second:,.1f}" if batch else "-",
        str(batch.size) if batch else "-",
        f"{row.load_ms:,.0f}" if row.load_ms is not None else "-",
        f"{row.memory_bytes / 1e6:,.1f}" if row.memory_bytes is not None else "-",
        f"{row.size_bytes / 1e6:,.2f}",
    )


def _escaped(text: str) -> str:
    return visible(text).replace("|", "\\|")

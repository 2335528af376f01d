"""The classes of a verdict, for a terminal: those that got worse, or lost most."""

from __future__ import annotations

from mobilette.errors import visible
from mobilette.verification.by_class import Change, ClassChange
from mobilette.verification.gate import Verdict

SHOWN = 5  # of the largest drops
WIDTH = 80
COLUMNS = ("images", "checkpoint", "artifact", "lost", "won", "p", "class")
GAP = 2


def class_lines(verdict: Verdict) -> list[str]:
    """Return a table of the classes that got significantly worse, or of the largest drops."""
    from mobilette.cli.output import table

    rows = [each for each in verdict.by_class if each.worse]
    title = f"classes that got worse (p over all {len(verdict.by_class):,} classes):"
    if not rows:
        fallen = [each for each in verdict.by_class if each.lost > each.won]
        rows = sorted(fallen, key=lambda each: each.accuracy_artifact - each.accuracy_source)
        rows = rows[:SHOWN]
        title = "no class got significantly worse; the largest drops:"
    if not rows:
        return ["no class lost right answers"] if verdict.by_class else []
    cells = [
        (
            f"{each.images:,}",
            f"{each.accuracy_source:.2%}",
            f"{each.accuracy_artifact:.2%}",
            f"{each.lost:,}",
            f"{each.won:,}",
            in_short(each.p_adjusted),
        )
        for each in rows
    ]
    columns = zip(COLUMNS[:-1], *cells, strict=True)
    room = WIDTH - sum(max(map(len, column)) + GAP for column in columns)
    named = [(*line, _fitted(each, room)) for line, each in zip(cells, rows, strict=True)]
    return [title, *table(COLUMNS, named, left=(len(COLUMNS) - 1,), gap=GAP).splitlines()]


def _fitted(each: ClassChange, room: int) -> str:
    """Return the class's name, and its id if that is another, in ``room`` columns."""
    from rich.cells import cell_len, set_cell_size

    text = visible(each.name if each.name == each.id else f"{each.name} ({each.id})")
    if cell_len(text) <= room:
        return text
    return set_cell_size(text, room - 1).rstrip() + "\u2026"


def in_words(change: Change) -> str:
    """Return right answers lost and won, and how likely such a split is by chance."""
    return f"{change.lost:,} lost, {change.won:,} won  (p {_with_sign(change.p_value)})"


def in_short(p_value: float) -> str:
    """Return a p-value with three digits."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _with_sign(p_value: float) -> str:
    text = in_short(p_value)
    return text if text.startswith("<") else f"= {text}"

"""A verdict for a terminal: what was measured, and the classes that got worse."""

from __future__ import annotations

from mobilette.errors import visible
from mobilette.verification.by_class import Change, ClassChange
from mobilette.verification.promised import Promised
from mobilette.verification.verdict import Verdict

SHOWN = 5  # of the largest drops
WIDTH = 80
COLUMNS = ("images", "checkpoint", "artifact", "lost", "won", "p", "class")
GAP = 2


def verdict_rows(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the lines of a verdict: what was measured, and its value."""
    from mobilette.cli.output import say_trained

    rows = [
        ("artifact", f"{verdict.target}, {verdict.precision}, executed by {verdict.engine}"),
        ("maximum absolute difference", f"{verdict.max_abs_diff:.3g}"),
        ("signal to noise", f"{verdict.signal_to_noise_db:.1f} dB"),
        ("top-1 agreement", f"{verdict.top1_agreement:.2%}"),
    ]
    if verdict.features_signal_to_noise_db is not None:
        decibels = f"{verdict.features_signal_to_noise_db:.1f} dB"
        rows.append(("signal to noise of features", decibels))
    for name, accuracy, interval in (
        ("checkpoint", verdict.accuracy_source, verdict.interval_source),
        ("artifact", verdict.accuracy_artifact, verdict.interval_artifact),
    ):
        if accuracy is not None and interval is not None:
            low, high = interval
            value = f"{accuracy:.2%}  (95%: {low:.2%} to {high:.2%})"
            rows.append((f"accuracy of the {name}", value))
    if verdict.change is not None:
        rows.append(("right answers", in_words(verdict.change)))
    for name, error, calibrated, temperature, promise in (
        (
            "checkpoint",
            verdict.calibration_error_source,
            verdict.calibrated_error_source,
            verdict.temperature_source,
            verdict.promise_source,
        ),
        (
            "artifact",
            verdict.calibration_error_artifact,
            verdict.calibrated_error_artifact,
            verdict.temperature_artifact,
            verdict.promise_artifact,
        ),
    ):
        if error is not None and calibrated is not None:
            fitted = f", {calibrated:.4f} at temperature {temperature:g}"
            value = f"{error:.4f}{fitted if temperature != 1 else ''}"
            rows.append((f"calibration error, {name}", value))
        rows += _promise_rows(name, promise)
    if verdict.accuracy_artifact is not None:
        trained = say_trained(verdict.trained_left_out, included=verdict.includes_trained)
        prepared = f", {verdict.readme_images} also prepared by the README's code"
        prepared *= verdict.readme_images > 0
        rows.append(("images", f"{verdict.images:,}{trained}{prepared}"))
    return rows


def _promise_rows(name: str, promise: Promised | None) -> list[tuple[str, str]]:
    if promise is None:
        return []
    rows = [(f"answered by the {name}", f"{promise.coverage:.2%}")]
    if promise.error is not None:
        low, high = promise.interval
        between = f"95%: {low:.2%} to {high:.2%}; promised: {100 * promise.promised:g}%"
        rows.append((f"wrong answers, {name}", f"{promise.error:.2%}  ({between})"))
    return rows


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

"""HTML that a notebook shows for a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mobilette.errors import visible


def html_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    notes: Iterable[str] = (),
) -> str:
    """Return a table with ``notes`` below it; numbers are aligned right, all text is escaped."""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    below = "<br>".join(map(_text, notes))
    return (
        f"<div><b>{_text(title)}</b><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{below}</div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td style="text-align:right">{value:,}</td>'
    return f'<td style="text-align:left">{_text(value)}</td>'


def _text(value: object) -> str:
    return escape(visible(str(value)))

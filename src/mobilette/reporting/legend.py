"""The legend of a diagram: the colours and signs that occur in it."""

from __future__ import annotations

from collections.abc import Sequence

from mobilette.reporting import style
from mobilette.reporting.outline import Line
from mobilette.reporting.rows import draw_symbol
from mobilette.reporting.svg import Drawing, text_width

SYMBOLS = {"add": "add", "concat": "concatenate", "split": "split the channels in two"}
SWATCH, SPACE, LINE_HEIGHT = 18, 22, 20


def draw_legend(
    drawing: Drawing, lines: Sequence[Line], norms: str, y: float, page: float
) -> float:
    """Draw what ``lines`` need explained, from ``y`` on; return where the page ends.

    ``norms`` says which convolutions have a batch norm: the boxes do not.
    """
    kinds = {box.kind for line in lines for box in line.boxes()}
    symbols = {line.join for line in lines} | {"split" for line in lines if line.split}
    entries: list[tuple[str, str]] = [(kind, kind) for kind in style.COLOURS if kind in kinds]
    entries += [(name, text) for name, text in SYMBOLS.items() if name in symbols]
    entries += [("", text) for text in (*_notes(lines), norms)]
    x: float = style.MARGIN
    with drawing.group("legend"):
        for sign, text in entries:
            width = SWATCH * bool(sign) + text_width(text, style.SMALL)
            if x + width > page - style.MARGIN:
                x, y = style.MARGIN, y + LINE_HEIGHT
            if sign in SYMBOLS:
                draw_symbol(drawing, sign, (x + style.JOIN, y - 3.5))
            elif sign:
                _draw_swatch(drawing, sign, x, y)
            at = (x + (SWATCH + 4) * bool(sign), y)
            drawing.text(at, text, size=style.SMALL, fill=style.INK)
            x += width + SPACE
    return y + style.MARGIN


def _draw_swatch(drawing: Drawing, kind: str, x: float, y: float) -> None:
    fill, edge = next(colour for name, colour in style.COLOURS.items() if name == kind)
    drawing.rectangle((x, y - 9), (SWATCH - 2, 11), fill=fill, stroke=edge, radius=2)


def _notes(lines: Sequence[Line]) -> list[str]:
    notes = ["→ n: n channels out"]
    strided = any(" /" in text for line in lines for box in line.boxes() for text in box.lines)
    for text, needed in (
        ("/2: stride 2", strided),
        ("× n: n equal blocks in succession", any(line.repeat > 1 for line in lines)),
        ("t: expansion ratio", any(line.ratio > 1 for line in lines)),
    ):
        if needed:
            notes.append(text)
    return notes

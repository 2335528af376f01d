"""A network drawn from its layer graph, as an SVG image a page wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.arch.scale import resolution_text, size_of
from mobilette.counting.cost import Cost, cost
from mobilette.errors import InputError
from mobilette.files import write_text
from mobilette.reporting import style
from mobilette.reporting.boxes import Boxes
from mobilette.reporting.lines import PlacedLine, draw_shelf, draw_symbol, shelf_height, shelves
from mobilette.reporting.outline import Line, Stage, outline
from mobilette.reporting.svg import Drawing, printable, text_width

LONGEST_NAME = 48
SYMBOLS = {"add": "add", "concat": "concatenate", "split": "split the channels in two"}
SWATCH, SPACE, LINE_HEIGHT = 18, 22, 20


def write_diagram(arch: Arch, path: Path, *, width_mult: float | None = None) -> None:
    """Write the `diagram` of ``arch`` to the file ``path``.

    Raises:
        InputError: ``path`` does not end in .svg or cannot be written, or the rows of ``arch`` do
            not fit together.
    """
    if path.suffix.lower() != ".svg":
        raise InputError(f"{path}: a diagram is an SVG image; its name must end in .svg")
    write_text(path, diagram(arch, width_mult=width_mult))


def diagram(arch: Arch, *, width_mult: float | None = None) -> str:
    """Return an image of ``arch`` as SVG text; the same network gives the same text.

    A stage shows the consecutive rows whose outputs have the same size; equal blocks in succession
    are drawn once. Bars give the stage's share of all mult-adds and parameters.

    Args:
        arch: the network.
        width_mult: shown in the heading, if known; an `Arch` does not record it.

    Raises:
        InputError: the rows do not fit together.
    """
    stages = outline(arch)
    lines = [line for stage in stages for line in stage.lines]
    box = _box_width(stages)
    placed = [shelves(stage.lines, box) for stage in stages]
    right = max(place.right for stage in placed for shelf in stage for place in shelf)
    page = style.PAGE + max(0.0, right - style.END)
    drawing, counted = Drawing(), cost(arch)
    y = _draw_heading(drawing, arch, counted, width_mult, page)
    for stage, shelved in zip(stages, placed, strict=True):
        _rule(drawing, y, page)
        y = _draw_stage(drawing, stage, shelved, counted, y + style.STAGE_PADDING, page)
        y += style.STAGE_PADDING
    _rule(drawing, y, page)
    bottom = _draw_legend(drawing, lines, Boxes(arch).norms(), y + 24, page)
    return drawing.to_svg((page, bottom), title=f"The network {arch.name}", background=style.PAPER)


def _box_width(stages: Sequence[Stage]) -> float:
    texts = [style.BOX - 2.0 * style.BOX_PADDING]
    for box in (box for stage in stages for line in stage.lines for box in line.boxes()):
        texts.append(text_width(box.title, style.MEDIUM, bold=True))
        texts += [text_width(line, style.SMALL) for line in box.lines]
    return round(max(texts)) + 2 * style.BOX_PADDING


def _rule(drawing: Drawing, y: float, page: float) -> None:
    drawing.line((style.MARGIN, y), (page - style.MARGIN, y), stroke=style.FAINT)


def _draw_heading(
    drawing: Drawing, arch: Arch, counted: Cost, width_mult: float | None, page: float
) -> float:
    """Draw name, figures and column headings; return the top of the first stage."""
    name = printable(arch.name)
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    drawing.text((style.MARGIN, 42), name, size=style.HUGE, fill=style.INK, bold=True)
    size = counted.size_bytes
    figures = {
        "width": "" if width_mult is None else f"{width_mult:g}",
        "input": "×".join(map(str, (*arch.size, arch.in_channels))),
        "classes": f"{arch.num_classes:,}",
        "parameters": f"{counted.params:,}",
        "mult-adds": f"{counted.madds / 1e6:,.2f} M",
        "size fp32": f"{size.fp32 / 1e6:,.2f} MB",
        "size int8": f"{size.int8 / 1e6:,.2f} MB",
        "peak activations int8": f"{counted.peak_activation_bytes.int8 / 1e6:,.2f} MB",
    }
    x: float = style.MARGIN
    for label, value in figures.items():
        if value:
            drawing.text((x, 66), label, size=style.SMALL, fill=style.QUIET)
            drawing.text((x, 82), value, size=style.LARGE, fill=style.INK, bold=True)
            widths = text_width(label, style.SMALL), text_width(value, style.LARGE, bold=True)
            x += max(widths) + 16
    for at, text in (
        (style.STAGE, "output"),
        (style.FIRST, "layers, in reading order"),
        (page - style.MARGIN - style.BARS, "share of the total"),
    ):
        drawing.text((at, 116), text, size=style.SMALL, fill=style.QUIET)
    return 126


def _draw_stage(
    drawing: Drawing,
    stage: Stage,
    placed: list[list[PlacedLine]],
    counted: Cost,
    y: float,
    page: float,
) -> float:
    """Draw one stage with its top at ``y``; return its bottom."""
    with drawing.group("stage", size=resolution_text(stage.size), stride=stage.stride):
        _draw_label(drawing, stage, y)
        shares = (stage.madds / counted.madds, stage.params / counted.params)
        _draw_shares(drawing, shares, page - style.MARGIN - style.BARS, y)
        bottom = y + style.STAGE_HEIGHT
        for shelf in placed:
            draw_shelf(drawing, shelf, y)
            bottom = max(bottom, y + shelf_height(shelf))
            y += shelf_height(shelf) + style.LINE_GAP
    return bottom


def _draw_label(drawing: Drawing, stage: Stage, y: float) -> None:
    title, details = "head", [f"{stage.channels:,} classes"]
    if stage.size:
        title = "×".join(map(str, size_of(stage.size)))
        details = [f"{stage.channels:,} channels", f"stride {stage.stride}"]
    x = style.STAGE
    drawing.text((x, y + 12), title, size=style.LARGE, fill=style.INK, bold=True)
    for number, text in enumerate(details):
        at = (x, y + 27 + 14 * number)
        drawing.text(at, text, size=style.SMALL, fill=style.QUIET)


def _draw_shares(drawing: Drawing, shares: tuple[float, float], x: float, y: float) -> None:
    """Draw the stage's shares of all mult-adds and parameters as two bars."""
    names, fills = ("mult-adds", "parameters"), (style.MADDS, style.PARAMS)
    for number, (name, share, fill) in enumerate(zip(names, shares, fills, strict=True)):
        top = y + 22 * number
        drawing.text((x, top + 8), name, size=style.TINY, fill=style.QUIET)
        percent = f"{100 * share:.0f}%" if share >= 0.01 or not share else "<1%"
        at = (x + style.BARS, top + 8)
        drawing.text(at, percent, size=style.SMALL, fill=style.INK, anchor="end", bold=True)
        drawing.rectangle((x, top + 12), (style.BARS, 5), fill="#eef0f2")
        if share:
            drawing.rectangle((x, top + 12), (max(1.0, style.BARS * share), 5), fill=fill)


def _draw_legend(
    drawing: Drawing, lines: Sequence[Line], norms: str, y: float, page: float
) -> float:
    """Draw the legend of ``lines``, and ``norms``, from ``y`` on; return the page's height."""
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
                colour = next(c for kind, c in style.COLOURS.items() if kind == sign)
                corner, size = (x, y - 9), (SWATCH - 2, 11)
                drawing.rectangle(corner, size, fill=colour.fill, stroke=colour.edge, radius=2)
            at = (x + (SWATCH + 4) * bool(sign), y)
            drawing.text(at, text, size=style.SMALL, fill=style.INK)
            x += width + SPACE
    return y + style.MARGIN


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

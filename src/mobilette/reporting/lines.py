"""The lines of a stage: boxes on parallel lanes between a fork and a join.

The longest path lies on the line's axis; shorter ones branch off above it. Short lines share a
shelf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mobilette.reporting import style
from mobilette.reporting.boxes import Box
from mobilette.reporting.outline import Line
from mobilette.reporting.svg import Drawing, Point, text_width


@dataclass(frozen=True, kw_only=True)
class PlacedLine:
    """Where a line is drawn.

    Attributes:
        left: where the stroke into it begins.
        first: where its first box begins.
        width: of a box.
    """

    line: Line
    left: float
    first: float
    width: float

    @property
    def column(self) -> float:
        """From one box to the next."""
        return self.width + style.GAP

    @property
    def paths(self) -> float:
        """Where the first box of each path begins."""
        split = style.FORK if self.line.split and self.line.entry else 0
        return self.first + len(self.line.entry) * self.column + split

    @property
    def fork(self) -> float:
        """The middle of the fork."""
        is_tight = self.line.entry and not self.line.split
        return self.paths - (style.GAP / 2 + 1 if is_tight else style.FORK)

    @property
    def join(self) -> float:
        """The middle of the join."""
        longest = len(self.line.paths[-1])
        return self.paths + longest * self.column - style.GAP + style.FORK

    @property
    def exit(self) -> float:
        """Where the boxes after the join begin."""
        activation = text_width(self.line.activation, style.SMALL)
        return self.join + max(style.JOIN + style.GAP, activation)

    @property
    def end(self) -> float:
        """The right side of the last thing of the line."""
        if not self.line.paths:
            return self.first + len(self.line.entry) * self.column - style.GAP
        if not self.line.exit:
            return self.join + style.JOIN
        return self.exit + len(self.line.exit) * self.column - style.GAP

    @property
    def right(self) -> float:
        """Where the stroke that leads on ends, with the output's channels above it."""
        activation = text_width(self.line.activation, style.SMALL) - 2 * style.JOIN
        output = text_width(f"{self.line.out_channels:,}", style.SMALL, bold=True) + 10
        return self.end + max(style.GAP, output, 0 if self.line.exit else activation)


def shelves(lines: Sequence[Line], width: float) -> list[list[PlacedLine]]:
    """Return the shelves of ``lines``, whose boxes have one ``width``.

    Lines with the same numbers of boxes share a shelf while there is room.
    """
    result: list[list[PlacedLine]] = []
    for line in lines:
        has_label = line.repeat > 1 or line.ratio > 1
        if result and not has_label and _form(line) == _form(result[-1][-1].line):
            left = result[-1][-1].right
            first = left + style.LEAD + (0 if line.entry else style.FORK)
            place = PlacedLine(line=line, left=left, first=first, width=width)
            if place.right <= style.END:
                result[-1].append(place)
                continue
        result.append([PlacedLine(line=line, left=style.START, first=style.FIRST, width=width)])
    return result


def _form(line: Line) -> tuple[int, ...]:
    return (len(line.entry), *map(len, line.paths))


def shelf_height(shelf: Sequence[PlacedLine]) -> float:
    """Return the height of a shelf, whose lines share one axis."""
    return _axis(shelf) + style.BOX_HEIGHT / 2


def draw_shelf(drawing: Drawing, shelf: Sequence[PlacedLine], y: float) -> None:
    """Draw the lines of a shelf below ``y``."""
    axis = y + _axis(shelf)
    for place in shelf:
        line = place.line
        rows = f"{line.rows[0]}..{line.rows[-1]}" if line.rows else "head"
        with drawing.group("line", rows=rows, repeat=line.repeat):
            _draw_repetition(drawing, line, axis)
            x = _draw_boxes(drawing, line.entry, (place.left, axis), place.first, place.width)
            if line.paths:
                x = _draw_paths(drawing, place, x, axis)
                x = _draw_boxes(drawing, line.exit, (x, axis), place.exit, place.width)
            is_last = place is shelf[-1]
            drawing.line((x, axis), (place.right, axis), stroke=style.INK, arrow=is_last)
            drawing.text(
                (x + 4, axis - 5),
                f"{line.out_channels:,}",
                size=style.SMALL,
                fill=style.INK,
                bold=True,
            )


def _axis(shelf: Sequence[PlacedLine]) -> float:
    """Return the distance of the axis from the top of the shelf."""
    above = [sum(map(_lane_height, place.line.paths[:-1])) for place in shelf]
    return max(above) + style.BOX_HEIGHT / 2


def _lane_height(path: tuple[Box, ...]) -> float:
    return style.BOX_HEIGHT + style.LANE_GAP if path else style.BYPASS


def _draw_repetition(drawing: Drawing, line: Line, axis: float) -> None:
    texts = []
    if line.repeat > 1:
        texts.append((f"× {line.repeat}", style.LARGE, style.INK, True))
    if line.ratio > 1:
        texts.append((f"t = {line.ratio:.3g}", style.SMALL, style.QUIET, False))
    y = axis + (4 if len(texts) == 1 else -3)
    for text, size, fill, bold in texts:
        drawing.text((style.REPEAT, y), text, size=size, fill=fill, bold=bold)
        y += 15


def _draw_boxes(
    drawing: Drawing, boxes: tuple[Box, ...], begin: Point, x: float, width: float
) -> float:
    """Draw boxes from ``x`` on, with an arrow to each; return the end of the last."""
    cursor, y = begin
    for box in boxes:
        drawing.line((cursor, y), (x, y), stroke=style.INK, arrow=True)
        _draw_box(drawing, box, (x, y), width)
        cursor = x + width
        x = cursor + style.GAP
    return cursor


def _draw_box(drawing: Drawing, box: Box, left: Point, width: float) -> None:
    """Draw a box, the middle of whose left side is given."""
    x, y = left
    colour = style.COLOURS[box.kind]
    shape = "×".join(f"{size:,}" for size in box.shape)
    hint = f"{box.layer}: {shape}, {box.params:,} parameters, {box.madds:,} mult-adds"
    with drawing.group("box", hint, layer=box.layer, kind=box.kind):
        corner, size = (x, y - style.BOX_HEIGHT / 2), (width, style.BOX_HEIGHT)
        drawing.rectangle(corner, size, fill=colour.fill, stroke=colour.edge, radius=4)
        x += width / 2
        y += 3.5 - 6.5 * len(box.lines)
        ink = style.INK
        drawing.text((x, y), box.title, size=style.MEDIUM, fill=ink, anchor="middle", bold=True)
        for number, text in enumerate(box.lines, start=1):
            at = (x, y + 13 * number)
            drawing.text(at, text, size=style.SMALL, fill=ink, anchor="middle")


def _draw_paths(drawing: Drawing, place: PlacedLine, x: float, axis: float) -> float:
    """Draw fork, lanes and join of a line whose entry ends at ``x``; return where the join ends."""
    line, fork, join = place.line, place.fork, place.join
    drawing.line((x, axis), (fork, axis), stroke=style.INK)
    lane = axis - style.BOX_HEIGHT / 2
    for path in reversed(line.paths[:-1]):
        lane -= _lane_height(path)
        _draw_lane(drawing, place, path, lane + (style.BOX_HEIGHT / 2 if path else 3), axis)
    end = _draw_boxes(drawing, line.paths[-1], (fork, axis), place.paths, place.width)
    drawing.line((end, axis), (join - style.JOIN, axis), stroke=style.INK, arrow=True)
    if line.split:
        draw_symbol(drawing, "split", (fork, axis))
    else:
        drawing.circle((fork, axis), 2.2, fill=style.INK)
    with drawing.group("join", join=line.join, repeat=line.repeat):
        draw_symbol(drawing, line.join, (join, axis))
    if line.activation:
        at = (join - 10, axis + 20)
        drawing.text(at, line.activation, size=style.SMALL, fill=style.INK)
    return join + style.JOIN


def _draw_lane(
    drawing: Drawing, place: PlacedLine, path: tuple[Box, ...], lane: float, axis: float
) -> None:
    """Draw a path that branches off to the height ``lane`` and comes back."""
    line, first = place.line, place.paths
    begin, end = (place.fork, axis), (place.join, axis - style.JOIN)
    corners = (place.fork, lane), (place.join, lane)
    if path:
        drawing.line(begin, corners[0], (first - 6, lane), stroke=style.INK, bend=6)
        last = _draw_boxes(drawing, path, (first - 7, lane), first, place.width)
        drawing.line((last, lane), corners[1], end, stroke=style.INK, bend=6, arrow=True)
        return
    with drawing.group("bypass", join=line.join, repeat=line.repeat):
        drawing.line(begin, *corners, end, stroke=style.INK, width=1.4, bend=6, arrow=True)
        if line.split:
            text = f"{line.split:,} channels pass by"
            drawing.text((first, lane - 3), text, size=style.TINY, fill=style.QUIET)


def draw_symbol(drawing: Drawing, name: str, centre: Point) -> None:
    """Draw the sign of ``add``, ``concat`` or ``split`` around a point."""
    x, y = centre
    drawing.circle(centre, style.JOIN, fill=style.PAPER, stroke=style.INK)
    if name == "add":
        drawing.line((x - 4.5, y), (x + 4.5, y), stroke=style.INK, width=1.4)
        drawing.line((x, y - 4.5), (x, y + 4.5), stroke=style.INK, width=1.4)
        return
    letter = {"concat": "C", "split": "S"}[name]
    at = (x, y + 3.5)
    drawing.text(at, letter, size=style.SMALL, fill=style.INK, anchor="middle", bold=True)

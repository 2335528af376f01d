"""The content of a diagram, without geometry: stages and lines of boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal, TypeVar

from mobilette.arch.arch import Arch
from mobilette.arch.editing import merged_row
from mobilette.arch.primitives import is_depthwise
from mobilette.arch.rows import Block, Branch, Conv, Row
from mobilette.arch.scale import Resolution
from mobilette.reporting.boxes import Box, Boxes, spelled

LINE_LENGTH = 4  # rows of one operation that share a line, at most

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One block, or some rows that are one operation each, or the head.

    Attributes:
        rows: numbers of the rows drawn here, -1 is the stem; none in the head.
        repeat: the number of equal, successive blocks that the line represents.
        ratio: the expansion ratio of a bottleneck, else 1.
        entry: boxes before the paths.
        split: channels per path if the channels are split in two, else 0.
        paths: shortest first; an empty one is the identity.
        activation: after the join, or empty.
        exit: boxes after the activation.
    """

    rows: tuple[int, ...]
    out_channels: int
    repeat: int = 1
    ratio: float = 1.0
    entry: tuple[Box, ...] = ()
    paths: tuple[tuple[Box, ...], ...] = ()
    join: Literal["none", "add", "concat"] = "none"
    split: int = 0
    activation: str = ""
    exit: tuple[Box, ...] = ()

    def boxes(self) -> Iterator[Box]:
        """Yield every box of the line."""
        for boxes in (self.entry, *self.paths, self.exit):
            yield from boxes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Rows whose outputs have one size, or the head.

    Attributes:
        size: of the maps, in pixels; 0 for the head.
        stride: of the output relative to the image.
        channels: of the last output, or the number of classes.
        params: of all rows, with repetitions, like ``madds``.
    """

    size: Resolution
    stride: int
    channels: int
    lines: tuple[Line, ...]
    params: int
    madds: int


def outline(arch: Arch) -> tuple[Stage, ...]:
    """Return the stages of ``arch`` from the image to the logits; the head is the last.

    Raises:
        InputError: the rows do not fit together.
    """
    boxes = Boxes(arch)
    rows: dict[int, Row] = {-1: arch.stem, **dict(enumerate(arch.rows))}
    strides: dict[int, int] = {}
    stride = 1
    for number, row in rows.items():
        stride *= row.stride
        strides[number] = stride

    def scale(number: int) -> tuple[Resolution, int]:
        _, height, width = boxes.shape(_name(number))
        return height if height == width else (height, width), strides[number]

    stages = []
    for (size, reached), group in groupby(rows, key=scale):
        numbers = tuple(group)
        lines = tuple(_lines({number: rows[number] for number in numbers}, boxes))
        stages.append(_stage(size, reached, lines, map(_name, numbers), boxes))
    head = boxes.head()
    lines = tuple(
        Line(rows=(), out_channels=part[-1].shape[0], entry=part) for part in _parts(head)
    )
    return (*stages, _stage(0, stride, lines, ["head"], boxes))


def _parts(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    return (items[begin : begin + LINE_LENGTH] for begin in range(0, len(items), LINE_LENGTH))


def _name(row: int) -> str:
    return "stem" if row < 0 else f"rows.{row}"


def _stage(
    size: Resolution, stride: int, lines: tuple[Line, ...], names: Iterable[str], boxes: Boxes
) -> Stage:
    costs = [boxes.costs(name) for name in names]
    return Stage(
        size=size,
        stride=stride,
        channels=lines[-1].out_channels,
        lines=lines,
        params=sum(params for params, _ in costs),
        madds=sum(madds for _, madds in costs),
    )


def _lines(rows: dict[int, Row], boxes: Boxes) -> Iterator[Line]:
    """Yield the lines of a stage: equal blocks as one, single operations side by side."""

    def alike(number: int) -> tuple[Row, int] | None:
        row = rows[number]
        return (row, _in_channels(number, boxes)) if _is_drawn_whole(row) else None

    for _, group in groupby(rows, key=alike):
        numbers = tuple(group)
        row = rows[numbers[0]]
        if isinstance(row, Block) and _is_drawn_whole(row):
            yield _block(numbers, row, boxes)
            continue
        for part in _parts(numbers):
            titles = ["stem" if number < 0 else "conv" for number in part]
            drawn = [boxes.box(_name(n), title) for n, title in zip(part, titles, strict=True)]
            yield Line(rows=part, out_channels=drawn[-1].shape[0], entry=tuple(drawn))


def _is_drawn_whole(row: Row) -> bool:
    """Whether the steps of ``row`` are drawn; branches that will be merged are one box."""
    return isinstance(row, Block) and merged_row(row) is None


def _in_channels(number: int, boxes: Boxes) -> int:
    return boxes.shape(_name(number - 1))[0]


def _block(numbers: tuple[int, ...], block: Block, boxes: Boxes) -> Line:
    name = _name(numbers[0])

    def drawn(path: Branch) -> tuple[Box, ...]:
        return tuple(boxes.box(f"{name}.{step.name}", step.name) for step in path)

    entry, paths = drawn(block.entry), tuple(drawn(path) for path in block.paths)
    channels = _in_channels(numbers[0], boxes)
    half = (entry[-1].shape[0] if entry else channels) // 2
    return Line(
        rows=numbers,
        repeat=len(numbers),
        out_channels=boxes.shape(name)[0],
        ratio=max(_ratio(path, channels) for path in (block.entry, *block.paths)),
        entry=entry,
        paths=tuple(sorted(paths, key=len)),
        join=block.join,
        split=half if block.split else 0,
        activation="" if block.activation == "none" else spelled(block.activation),
        exit=(boxes.box(f"{name}.shuffle", "shuffle"),) if block.shuffle else (),
    )


def _ratio(path: Branch, channels: int) -> float:
    """Return a bottleneck's depthwise channels divided by its input's ``channels``, else 1."""
    convs = [step.operation for step in path if isinstance(step.operation, Conv)]
    for before, conv in pairwise(convs):
        depthwise = is_depthwise(conv.groups, before.channels, conv.channels)
        if depthwise and before.kernel == 1 and conv.channels > max(channels, convs[-1].channels):
            return conv.channels / channels
    return 1.0

"""Padding as TensorFlow's files spell it, in pixels and as a `Conv` spells it."""

from __future__ import annotations

from mobilette.arch.primitives import same_padding, symmetric_padding
from mobilette.arch.rows import Padding as ConvPadding
from mobilette.formats.graph import Padding

Pixels = tuple[int, int, int, int]


def pixels(before: Pixels, padding: Padding, *, kernel: int, stride: int, side: int) -> Pixels:
    """Return the zeros (top, bottom, left, right) of a window over a square of ``side`` pixels.

    ``before`` are those of a padding layer in front of it.
    """
    own = _same(kernel, stride, side) if padding == "same" else padding
    top, bottom, left, right = (first + second for first, second in zip(before, own, strict=True))
    return top, bottom, left, right


def conv_padding(
    before: Pixels,
    padding: Padding,
    *,
    kernel: int,
    stride: int,
    side: int,
    usual: ConvPadding,
) -> ConvPadding | None:
    """Return how a `Conv` spells that padding; ``None`` if it cannot.

    With stride 1 symmetric padding and TensorFlow's are one: then it is ``usual`` if that is one of
    them. With a larger stride they are one only at some sizes: then it is what the file says.
    """
    around = pixels(before, padding, kernel=kernel, stride=stride, side=side)
    found: list[ConvPadding] = []
    if not any(around):
        found.append("valid")
    if around == (symmetric_padding(kernel),) * 4:
        found.append("symmetric")
    if around == _same(kernel, stride, side):
        found.append("tf_same")
    if usual in found and (stride == 1 or kernel == 1):
        return usual
    if padding == "same" and "tf_same" in found:
        return "tf_same"
    return found[0] if found else None


def _same(kernel: int, stride: int, side: int) -> Pixels:
    return same_padding(side, kernel=kernel, stride=stride) * 2

"""MobileNet V4, the convolutional small, medium and large: universal inverted bottlenecks.

Qin et al. 2024, "MobileNetV4: Universal Models for the Mobile Ecosystem", arXiv 2404.10518, and
the authors' code (tensorflow/models, official/vision/modeling/backbones/mobilenet.py).
A universal inverted bottleneck is an inverted residual with a depthwise convolution before the
expansion, after it, both or neither. Below width 1 the stem keeps its channels (timm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Block, Conv, Operation, PoolConvLinear, Row, branch
from mobilette.arch.scale import Settings, make_divisible


class Plain(NamedTuple):
    """A convolution."""

    kernel: int
    c: int
    s: int


class Fused(NamedTuple):
    """A fused inverted bottleneck: a full 3x3 convolution expands, a 1x1 one projects."""

    t: int
    c: int
    s: int


class Universal(NamedTuple):
    """``n`` universal inverted bottlenecks; a kernel of 0 stands for no convolution."""

    start: int
    middle: int
    t: int
    c: int
    n: int = 1
    s: int = 1


Line = Plain | Fused | Universal
HEAD = 1280
SMALL: tuple[Line, ...] = (
    Plain(3, 32, 2),
    Plain(1, 32, 1),
    Plain(3, 96, 2),
    Plain(1, 64, 1),
    Universal(5, 5, 3, 96, s=2),
    Universal(0, 3, 2, 96, n=4),
    Universal(3, 0, 4, 96),
    Universal(3, 3, 6, 128, s=2),
    Universal(5, 5, 4, 128),
    Universal(0, 5, 4, 128),
    Universal(0, 5, 3, 128),
    Universal(0, 3, 4, 128, n=2),
    Plain(1, 960, 1),
)
MEDIUM: tuple[Line, ...] = (
    Fused(4, 48, 2),
    Universal(3, 5, 4, 80, s=2),
    Universal(3, 3, 2, 80),
    Universal(3, 5, 6, 160, s=2),
    Universal(3, 3, 4, 160, n=2),
    Universal(3, 5, 4, 160),
    Universal(3, 3, 4, 160),
    Universal(3, 0, 4, 160),
    Universal(0, 0, 2, 160),
    Universal(3, 0, 4, 160),
    Universal(5, 5, 6, 256, s=2),
    Universal(5, 5, 4, 256),
    Universal(3, 5, 4, 256, n=2),
    Universal(0, 0, 4, 256),
    Universal(3, 0, 4, 256),
    Universal(3, 5, 2, 256),
    Universal(5, 5, 4, 256),
    Universal(0, 0, 4, 256, n=2),
    Universal(5, 0, 2, 256),
    Plain(1, 960, 1),
)
LARGE: tuple[Line, ...] = (
    Fused(4, 48, 2),
    Universal(3, 5, 4, 96, s=2),
    Universal(3, 3, 4, 96),
    Universal(3, 5, 4, 192, s=2),
    Universal(3, 3, 4, 192, n=3),
    Universal(3, 5, 4, 192),
    Universal(5, 3, 4, 192, n=5),
    Universal(3, 0, 4, 192),
    Universal(5, 5, 4, 512, s=2),
    Universal(5, 5, 4, 512, n=3),
    Universal(5, 0, 4, 512),
    Universal(5, 3, 4, 512),
    Universal(5, 0, 4, 512, n=2),
    Universal(5, 3, 4, 512),
    Universal(5, 5, 4, 512),
    Universal(5, 0, 4, 512, n=3),
    Plain(1, 960, 1),
)


def _network(settings: Settings, *, name: str, table: Sequence[Line], stem: int) -> Arch:
    width = settings.width_mult
    strides = settings.strides([2, *(line.s for line in table)])
    channels = first = make_divisible(stem * max(1.0, width))
    rows: list[Row] = []
    for line, stride in zip(table, strides[1:], strict=True):
        out = make_divisible(line.c * width)
        match line:
            case Plain():
                conv = Conv(channels=out, kernel=line.kernel, stride=stride, activation="relu")
                rows.append(conv)
            case Fused():
                rows.append(_fused(make_divisible(channels * line.t), out, stride))
            case Universal():
                for number in range(line.n):
                    rows.append(
                        universal_bottleneck(
                            line, channels, out, stride=stride if number == 0 else 1
                        )
                    )
                    channels = out
        channels = out
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=first, kernel=3, stride=strides[0], activation="relu"),
        rows=tuple(rows),
        head=PoolConvLinear(
            conv=Conv(channels=HEAD, activation="relu"), classes=settings.num_classes, dropout=0.2
        ),
    )


def _fused(expanded: int, out: int, stride: int) -> Block:
    expand = Conv(channels=expanded, kernel=3, stride=stride, activation="relu")
    project = Conv(channels=out, activation="none")
    return Block(entry=branch(expand=expand, project=project))


def universal_bottleneck(line: Universal, channels: int, out: int, *, stride: int) -> Block:
    """Return the block (Section 3.1); the stride is the second depthwise convolution's if any."""
    expanded = make_divisible(channels * line.t)
    operations: dict[str, Operation] = {}
    if line.start:
        operations["depthwise_start"] = Conv(
            channels=channels,
            kernel=line.start,
            stride=1 if line.middle else stride,
            groups=channels,
            activation="none",
        )
    operations["expand"] = Conv(channels=expanded, activation="relu")
    if line.middle:
        operations["depthwise"] = Conv(
            channels=expanded,
            kernel=line.middle,
            stride=stride,
            groups=expanded,
            activation="relu",
        )
    path = branch(**operations, project=Conv(channels=out, activation="none"))
    if line.s == 1 and channels == out:
        return Block(paths=(path, ()), join="add")
    return Block(entry=path)


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    name: partial(_network, name=name, table=table, stem=stem)
    for name, table, stem in (
        ("mobilenet_v4_conv_small", SMALL, 32),
        ("mobilenet_v4_conv_medium", MEDIUM, 32),
        ("mobilenet_v4_conv_large", LARGE, 24),
    )
}

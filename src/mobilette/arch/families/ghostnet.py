"""GhostNet V1: half of each 1x1 convolution's channels computed by a depthwise one.

Han et al. 2020, "GhostNet: More Features from Cheap Operations", arXiv 1911.11907, Table 1.
Channels are rounded to multiples of 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.rows import (
    Activation,
    Block,
    Branch,
    Conv,
    Ghost,
    Operation,
    PoolLinear,
    Row,
    SqueezeExcite,
    branch,
)
from mobilette.arch.scale import Settings, make_divisible


class Bottleneck(NamedTuple):
    """One line of the paper's table, in its column order."""

    kernel: int
    exp: int
    out: int
    squeeze_excite: bool
    s: int


STEM, HIDDEN = 16, 1280
TABLE = (
    Bottleneck(3, 16, 16, False, 1),
    Bottleneck(3, 48, 24, False, 2),
    Bottleneck(3, 72, 24, False, 1),
    Bottleneck(5, 72, 40, True, 2),
    Bottleneck(5, 120, 40, True, 1),
    Bottleneck(3, 240, 80, False, 2),
    Bottleneck(3, 200, 80, False, 1),
    Bottleneck(3, 184, 80, False, 1),
    Bottleneck(3, 184, 80, False, 1),
    Bottleneck(3, 480, 112, True, 1),
    Bottleneck(3, 672, 112, True, 1),
    Bottleneck(5, 672, 160, True, 2),
    Bottleneck(5, 960, 160, False, 1),
    Bottleneck(5, 960, 160, True, 1),
    Bottleneck(5, 960, 160, False, 1),
    Bottleneck(5, 960, 160, True, 1),
)


def ghostnet(settings: Settings) -> Arch:
    """GhostNet; the hidden layer of 1,280 features is not scaled."""

    def scaled(channels: int) -> int:
        return make_divisible(channels * settings.width_mult, 4)

    strides = settings.strides([2, *(row.s for row in TABLE)])
    channels = scaled(STEM)
    rows: list[Row] = []
    for row, stride in zip(TABLE, strides[1:], strict=True):
        out = scaled(row.out)
        rows.append(_bottleneck(row, channels, scaled(row.exp), out, stride))
        channels = out
    rows.append(Conv(channels=scaled(TABLE[-1].exp), activation="relu"))
    return Arch(
        name="ghostnet",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=scaled(STEM), kernel=3, stride=strides[0], activation="relu"),
        rows=tuple(rows),
        head=PoolLinear(
            hidden=(HIDDEN,), activation="relu", classes=settings.num_classes, dropout=0.2
        ),
    )


def _bottleneck(row: Bottleneck, channels: int, expanded: int, out: int, stride: int) -> Block:
    operations: dict[str, Operation] = {"ghost1": _ghost(expanded, "relu")}
    if row.s > 1:
        operations["depthwise"] = _depthwise(expanded, row.kernel, stride)
    if row.squeeze_excite:
        operations["squeeze_excite"] = SqueezeExcite(
            reduce=Conv(
                channels=make_divisible(expanded / 4, 4), bias=True, norm="none", activation="relu"
            ),
            expand=Conv(channels=expanded, bias=True, norm="none", activation="hard_sigmoid"),
        )
    shortcut: Branch = ()
    if row.s > 1 or channels != out:
        shortcut = branch(
            shortcut=_depthwise(channels, row.kernel, stride),
            shortcut_pointwise=Conv(channels=out, activation="none"),
        )
    return Block(paths=(branch(**operations, ghost2=_ghost(out, "none")), shortcut), join="add")


def _depthwise(channels: int, kernel: int, stride: int) -> Conv:
    return Conv(channels=channels, kernel=kernel, stride=stride, groups=channels, activation="none")


def _ghost(channels: int, activation: Activation) -> Ghost:
    half = channels // 2  # channels are multiples of 4
    return Ghost(
        primary=Conv(channels=half, activation=activation),
        cheap=Conv(channels=half, kernel=3, groups=half, activation=activation),
    )


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {"ghostnet": ghostnet}

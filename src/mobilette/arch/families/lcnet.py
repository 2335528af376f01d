"""PP-LCNet: MobileNet V1's blocks with hard-swish, 5x5 kernels late and a wide last layer.

Cui et al. 2021, "PP-LCNet: A Lightweight CPU Convolutional Neural Network", arXiv 2109.15099,
Table 1. The last two blocks have squeeze-and-excitation of a quarter of their input channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Block, Conv, Operation, PoolLinear, Row, SqueezeExcite, branch
from mobilette.arch.scale import Settings, make_divisible


class Unit(NamedTuple):
    """One line of the paper's table."""

    kernel: int
    out: int
    s: int
    squeeze_excite: bool = False


STEM, LAST = 16, 1280
TABLE = (
    Unit(3, 32, 1),
    Unit(3, 64, 2),
    Unit(3, 64, 1),
    Unit(3, 128, 2),
    Unit(3, 128, 1),
    Unit(3, 256, 2),
    *[Unit(5, 256, 1)] * 5,
    Unit(5, 512, 2, squeeze_excite=True),
    Unit(5, 512, 1, squeeze_excite=True),
)


def pp_lcnet(settings: Settings) -> Arch:
    """PP-LCNet; the last 1,280 channels are not scaled."""
    width = settings.width_mult
    strides = settings.strides([2, *(unit.s for unit in TABLE)])
    channels = stem = make_divisible(STEM * width)
    rows: list[Row] = []
    for unit, stride in zip(TABLE, strides[1:], strict=True):
        out = make_divisible(unit.out * width)
        rows.append(_separable(unit, channels, out, stride))
        channels = out
    return Arch(
        name="pp_lcnet",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=stem, kernel=3, stride=strides[0], activation="hard_swish"),
        rows=tuple(rows),
        head=PoolLinear(
            hidden=(LAST,), activation="hard_swish", classes=settings.num_classes, dropout=0.2
        ),
    )


def _separable(unit: Unit, channels: int, out: int, stride: int) -> Block:
    depthwise = Conv(
        channels=channels,
        kernel=unit.kernel,
        stride=stride,
        groups=channels,
        activation="hard_swish",
    )
    gate = SqueezeExcite(
        reduce=Conv(channels=round(channels / 4), bias=True, norm="none", activation="relu"),
        expand=Conv(channels=channels, bias=True, norm="none", activation="hard_sigmoid"),
    )
    operations: dict[str, Operation] = {"depthwise": depthwise}
    if unit.squeeze_excite:
        operations["squeeze_excite"] = gate
    return Block(entry=branch(**operations, pointwise=Conv(channels=out, activation="hard_swish")))


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {"pp_lcnet": pp_lcnet}

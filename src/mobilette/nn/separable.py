"""The depthwise separable convolution of MobileNet V1."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mobilette.arch.rows import Separable
from mobilette.nn.layers import ConvUnit, MakeNorm


class SeparableBlock(nn.Sequential):
    """Depthwise convolution, then pointwise."""

    def __init__(self, row: Separable, *, in_channels: int, norm: MakeNorm) -> None:
        channels = row.depthwise.channels
        super().__init__(
            OrderedDict(
                depthwise=ConvUnit(row.depthwise, in_channels=in_channels, norm=norm),
                pointwise=ConvUnit(row.pointwise, in_channels=channels, norm=norm),
            )
        )

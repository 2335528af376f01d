"""The inverted residual of MobileNet V2, with V3's squeeze-and-excitation where the row has it."""

from __future__ import annotations

from torch import Tensor, nn

from mobilette.arch.rows import Bottleneck, SqueezeExcite
from mobilette.nn.layers import Add, ConvUnit, GlobalAveragePool, MakeNorm, Scale


class SqueezeExciteBlock(nn.Module):
    """Scales each channel by a factor computed from the averages of all channels."""

    def __init__(self, block: SqueezeExcite, *, in_channels: int, norm: MakeNorm) -> None:
        super().__init__()
        reduced = block.reduce.channels
        self.pool = GlobalAveragePool()
        self.reduce = ConvUnit(block.reduce, in_channels=in_channels, norm=norm)
        self.expand = ConvUnit(block.expand, in_channels=reduced, norm=norm)
        self.scale = Scale()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W), scaled."""
        factors = self.expand(self.reduce(self.pool(x)))
        scaled: Tensor = self.scale(x, factors)
        return scaled


class BottleneckBlock(nn.Module):
    """Expand (1x1), depthwise, squeeze-and-excitation if any, project (1x1, linear)."""

    def __init__(self, row: Bottleneck, *, in_channels: int, norm: MakeNorm) -> None:
        super().__init__()
        channels = in_channels
        self.expand: ConvUnit | None = None
        if row.expand is not None:
            self.expand = ConvUnit(row.expand, in_channels=channels, norm=norm)
            channels = row.expand.channels
        self.depthwise = ConvUnit(row.depthwise, in_channels=channels, norm=norm)
        channels = row.depthwise.channels
        self.squeeze_excite: SqueezeExciteBlock | None = None
        if row.squeeze_excite is not None:
            self.squeeze_excite = SqueezeExciteBlock(
                row.squeeze_excite, in_channels=channels, norm=norm
            )
        self.project = ConvUnit(row.project, in_channels=channels, norm=norm)
        self.add: Add | None = Add() if row.residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (N, C', H', W') for ``x`` (N, C, H, W)."""
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        y = self.project(y)
        out: Tensor = y if self.add is None else self.add(x, y)
        return out

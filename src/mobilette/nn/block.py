"""Modules of the operations and blocks of `mobilette.arch.rows`."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilette.arch.rows import (
    Block,
    Branch,
    ChannelShuffle,
    Conv,
    Operation,
    Pool,
    SqueezeExcite,
    Subsample,
)
from mobilette.nn.layers import ConvUnit, GlobalAveragePool, MakeNorm, activation


class Add(nn.Module):
    """The sum of tensors, as a module so that the addition has a name."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Return the sum of ``parts``, all of one shape."""
        first, *others = parts
        for other in others:
            first = first + other
        return first


class Concat(nn.Module):
    """The channels of tensors one after the other."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Return (N, sum of channels, H, W) of ``parts``, each (N, C, H, W)."""
        return torch.cat(parts, dim=1)


class Slice(nn.Module):
    """Some of the channels."""

    def __init__(self, begin: int, end: int) -> None:
        super().__init__()
        self.begin, self.end = begin, end

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels ``begin`` to ``end`` of ``x`` (N, C, H, W)."""
        return x[:, self.begin : self.end]


class Scale(nn.Module):
    """One tensor times another, as a module so that the product has a name."""

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W) times ``factors`` (N, C, 1, 1)."""
        return x * factors


class ShuffleChannels(nn.Module):
    """Channels as (groups, n) transposed to (n, groups)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W) with its channels in the other order."""
        batch, channels, height, width = x.shape
        each = channels // self.groups
        if x.is_contiguous():
            grouped = x.reshape(batch, self.groups, each, height, width)
            return grouped.transpose(1, 2).reshape(batch, channels, height, width)
        # channels_last stays channels_last: the layers that follow are fast in it alone
        grouped = x.permute(0, 2, 3, 1).reshape(batch, height, width, self.groups, each)
        shuffled = grouped.transpose(3, 4).reshape(batch, height, width, channels)
        return shuffled.permute(0, 3, 1, 2)


class SubsampleAndPad(nn.Module):
    """Every ``stride``-th position; zeros as new channels, half before and half after the old."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, new_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C + new channels, ceil(H / stride), ceil(W / stride)) of ``x``."""
        half = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, half, half))


class SqueezeExciteUnit(nn.Module):
    """Scales each channel by a factor computed from the averages of all channels."""

    def __init__(self, operation: SqueezeExcite, *, in_channels: int, norm: MakeNorm) -> None:
        super().__init__()
        reduced = operation.reduce.channels
        self.pool = GlobalAveragePool()
        self.reduce = ConvUnit(operation.reduce, in_channels=in_channels, norm=norm)
        self.expand = ConvUnit(operation.expand, in_channels=reduced, norm=norm)
        self.scale = Scale()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W), scaled."""
        factors = self.expand(self.reduce(self.pool(x)))
        scaled: Tensor = self.scale(x, factors)
        return scaled


class BlockUnit(nn.Module):
    """The steps of a `Block`, on its paths, joined."""

    def __init__(self, block: Block, *, in_channels: int, norm: MakeNorm) -> None:
        super().__init__()
        self.entry = tuple(step.name for step in block.entry)
        self.paths = tuple(tuple(step.name for step in path) for path in block.paths)
        channels = self._build(block.entry, in_channels, norm)
        self.split = nn.ModuleList()
        if block.split:
            half = channels // 2
            self.split.extend([Slice(0, half), Slice(half, channels)])
            channels = half
        if block.paths:
            ends = [self._build(path, channels, norm) for path in block.paths]
            if block.join == "add":
                self.add, channels = Add(), ends[0]
            else:
                self.concat, channels = Concat(), sum(ends)
        self.activation = activation(block.activation) if block.activation != "none" else None
        self.shuffle = ShuffleChannels(block.shuffle) if block.shuffle else None
        self.out_channels = channels
        self._is_sum = block.join == "add"

    def _build(self, path: Branch, channels: int, norm: MakeNorm) -> int:
        """Add the modules of ``path`` and return the channels of its output."""
        for step in path:
            module, channels = build_operation(step.operation, in_channels=channels, norm=norm)
            self.add_module(step.name, module)
        return channels

    def _run(self, path: tuple[str, ...], x: Tensor) -> Tensor:
        for name in path:
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (N, C', H', W') for ``x`` (N, C, H, W)."""
        x = self._run(self.entry, x)
        if self.paths:
            begins = [part(x) for part in self.split] or [x] * len(self.paths)
            ends = [self._run(path, begin) for path, begin in zip(self.paths, begins, strict=True)]
            x = self.add(*ends) if self._is_sum else self.concat(*ends)
        if self.activation is not None:
            x = self.activation(x)
        if self.shuffle is not None:
            x = self.shuffle(x)
        return x


def build_operation(
    operation: Operation | Block, *, in_channels: int, norm: MakeNorm
) -> tuple[nn.Module, int]:
    """Return the module of a row or a step, and the channels of its output."""
    match operation:
        case Block():
            unit = BlockUnit(operation, in_channels=in_channels, norm=norm)
            return unit, unit.out_channels
        case Conv():
            return ConvUnit(operation, in_channels=in_channels, norm=norm), operation.channels
        case Pool():
            return _pool(operation), in_channels
        case SqueezeExcite():
            return SqueezeExciteUnit(operation, in_channels=in_channels, norm=norm), in_channels
        case ChannelShuffle():
            return ShuffleChannels(operation.groups), in_channels
        case Subsample():
            new_channels = operation.channels - in_channels
            return SubsampleAndPad(operation.stride, new_channels), operation.channels
        case _:
            assert_never(operation)


def _pool(pool: Pool) -> nn.Module:
    padding = (pool.kernel - 1) // 2 if pool.padding == "symmetric" else 0
    kind = nn.MaxPool2d if pool.function == "max" else nn.AvgPool2d
    return kind(pool.kernel, pool.stride, padding, ceil_mode=pool.ceil_mode)

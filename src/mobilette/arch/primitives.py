"""The kinds of primitive layer that the graph of a network is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mobilette.arch.rows import Activation, Padding

INPUT = "input"
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What every layer has.

    Attributes:
        name: its name everywhere: state dict, cost table, exported nodes.
        inputs: the layers (or ``input``) whose outputs it reads.
        shape: of its output without the batch: (channels, height, width) or (features,).
    """

    name: str
    inputs: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class ConvLayer(Layer):
    """A 2-d convolution."""

    in_channels: int
    kernel: int
    stride: int
    groups: int
    padding: Padding
    bias: bool

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel is computed from the input channel of the same number."""
        return 1 < self.groups == self.in_channels == self.shape[0]


@dataclass(frozen=True, kw_only=True)
class LinearLayer(Layer):
    """A fully connected layer with bias."""

    in_features: int


@dataclass(frozen=True, kw_only=True)
class NormLayer(Layer):
    """A batch norm with scale and shift."""


@dataclass(frozen=True, kw_only=True)
class ActivationLayer(Layer):
    """An element-wise non-linearity."""

    function: Activation


@dataclass(frozen=True, kw_only=True)
class PoolLayer(Layer):
    """The largest value or the average (padding counted as zeros) of a window.

    Attributes:
        padding: pixels on every side.
    """

    function: Literal["max", "average"]
    kernel: int
    stride: int
    padding: int
    ceil_mode: bool


@dataclass(frozen=True, kw_only=True)
class AdaptivePoolLayer(Layer):
    """The averages over a grid of cells: (channels, height, width) to (channels, size, size)."""


@dataclass(frozen=True, kw_only=True)
class SliceLayer(Layer):
    """The channels ``begin`` to ``end`` (not included) of its input."""

    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class ConcatLayer(Layer):
    """The channels of its inputs one after the other."""


@dataclass(frozen=True, kw_only=True)
class ShuffleLayer(Layer):
    """Channels as (groups, n) transposed to (n, groups)."""

    groups: int


@dataclass(frozen=True, kw_only=True)
class SubsampleLayer(Layer):
    """Every ``stride``-th position; zeros as new channels, half before and half after the old."""

    stride: int


@dataclass(frozen=True, kw_only=True)
class FlattenLayer(Layer):
    """(channels, height, width) to (channels * height * width,)."""


@dataclass(frozen=True, kw_only=True)
class AddLayer(Layer):
    """The sum of its inputs."""


@dataclass(frozen=True, kw_only=True)
class ScaleLayer(Layer):
    """The first input times the second, one factor a channel."""


AnyLayer = (
    ConvLayer
    | LinearLayer
    | NormLayer
    | ActivationLayer
    | PoolLayer
    | AdaptivePoolLayer
    | FlattenLayer
    | AddLayer
    | ConcatLayer
    | SliceLayer
    | ShuffleLayer
    | SubsampleLayer
    | ScaleLayer
)

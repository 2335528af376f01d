"""The kinds of primitive layers, and their padding and output sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mobilette.arch.rows import Activation, Padding
from mobilette.errors import InputError

INPUT = "input"
Shape = tuple[int, ...]


def symmetric_padding(kernel: int) -> int:
    """Return the zeros on every side of a map with ``symmetric`` padding."""
    return (kernel - 1) // 2


def same_padding(side: int, *, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after a side for TensorFlow's ``SAME``; an odd one is after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def is_depthwise(groups: int, in_channels: int, channels: int) -> bool:
    """Whether each output channel is computed only from the input channel of the same number."""
    return 1 < groups == in_channels == channels


@dataclass(frozen=True)
class Layer:
    """The fields that all layers have.

    Attributes:
        name: as in state dicts, cost tables and exported nodes.
        inputs: the layers, or ``input``, that it reads.
        shape: of its output, without the batch: (channels, height, width) or (features,).
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
        """Whether each output channel is computed only from the input channel of its number."""
        return is_depthwise(self.groups, self.in_channels, self.shape[0])

    def pads(self, side: int) -> tuple[int, int]:
        """Return the zeros before and after a map of ``side`` pixels."""
        match self.padding:
            case "symmetric":
                return (symmetric_padding(self.kernel),) * 2
            case "tf_same":
                return same_padding(side, kernel=self.kernel, stride=self.stride)
            case "valid":
                return 0, 0


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
class DropoutLayer(Layer):
    """Sets values to zero with ``probability``, in training only."""

    probability: float


@dataclass(frozen=True, kw_only=True)
class PoolLayer(Layer):
    """The maximum or average of a window; averages count the ``padding`` as zeros."""

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
    """The channels from ``begin`` up to, not including, ``end``."""

    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class ConcatLayer(Layer):
    """Its inputs' channels, concatenated."""


@dataclass(frozen=True, kw_only=True)
class ShuffleLayer(Layer):
    """Channels as (groups, n) transposed to (n, groups)."""

    groups: int


@dataclass(frozen=True, kw_only=True)
class SubsampleLayer(Layer):
    """Every ``stride``-th position; zeros as new channels, half before and half after the old."""

    stride: int
    new_channels: int


@dataclass(frozen=True, kw_only=True)
class FlattenLayer(Layer):
    """(channels, height, width) to (channels * height * width,)."""


@dataclass(frozen=True, kw_only=True)
class AddLayer(Layer):
    """The sum of its inputs."""


@dataclass(frozen=True, kw_only=True)
class ScaleLayer(Layer):
    """The first input times the second, one factor per channel."""


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


def output_side(layer: AnyLayer, side: int) -> int:
    """Return the height (or width) of the output map of ``layer`` for that of its input map.

    Layers after the flattening have no side; they return ``side``.

    Raises:
        InputError: the layer's window does not fit into the map.
    """
    match layer:
        case ConvLayer():
            windows = (side + sum(layer.pads(side)) - layer.kernel) // layer.stride + 1
        case PoolLayer():
            free = side + 2 * layer.padding - layer.kernel
            windows = free // layer.stride + 1
            if layer.ceil_mode:
                steps = -(-free // layer.stride)
                # PyTorch ignores a window that would begin in the padding after the map.
                windows = steps + (steps * layer.stride < side + layer.padding)
        case SubsampleLayer():
            return -(-side // layer.stride)
        case AdaptivePoolLayer():
            return layer.shape[1]
        case _:
            return side
    if windows < 1:
        raise InputError(
            f"{layer.name}: a {layer.kernel}x{layer.kernel} window does not fit into the map "
            f"there, of {side} pixels; use a larger resolution"
        )
    return windows

"""What a network is made of: one frozen dataclass per kind of row and of head.

A row is concrete: every channel is an integer and every convolution is spelled out as a `Conv`.
Widths, classes and forms are expanded before a row is made (`mobilette.arch.scale`). The names of
the fields are the names of the layers: the depthwise convolution of the fourth row is
``rows.3.depthwise.conv`` in state dicts, cost tables and exported files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mobilette.errors import InputError

Activation = Literal["none", "relu", "relu6", "hard_swish", "hard_sigmoid"]
Norm = Literal["batch", "none"]
Padding = Literal["symmetric", "tf_same"]

LARGEST_CHANNELS = 65_536


def _check_range(what: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise InputError(f"{what} {value} is not between {lowest} and {highest}")


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution, then batch norm if any, then an activation if any.

    Attributes:
        channels: output channels.
        kernel: odd side of the square kernel.
        stride: the same in both directions.
        groups: 1 for a full convolution, the input's channels for a depthwise one.
        padding: ``symmetric`` pads (kernel - 1) // 2 on every side; ``tf_same`` pads what makes
            the output ceil(input / stride), the odd pixel at the bottom and right (TensorFlow).
        bias: whether the convolution itself has a bias.
    """

    channels: int
    activation: Activation
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    padding: Padding = "symmetric"
    bias: bool = False
    norm: Norm = "batch"
    kind: Literal["conv"] = "conv"

    def __post_init__(self) -> None:
        _check_range("channels", self.channels, 1, LARGEST_CHANNELS)
        _check_range("kernel", self.kernel, 1, 31)
        _check_range("stride", self.stride, 1, 8)
        _check_range("groups", self.groups, 1, self.channels)
        if self.kernel % 2 == 0:
            raise InputError(f"kernel {self.kernel} is even; an odd one is needed")
        if self.channels % self.groups:
            raise InputError(f"groups {self.groups} do not divide {self.channels} channels")


@dataclass(frozen=True, kw_only=True)
class SqueezeExcite:
    """Squeeze-and-excitation (Hu et al. 2018): pool, reduce, expand, scale the input by it."""

    reduce: Conv
    expand: Conv
    kind: Literal["squeeze_excite"] = "squeeze_excite"


@dataclass(frozen=True, kw_only=True)
class Separable:
    """A depthwise separable convolution (MobileNet V1): depthwise, then 1x1 pointwise."""

    depthwise: Conv
    pointwise: Conv
    kind: Literal["separable"] = "separable"

    @property
    def stride(self) -> int:
        """The stride of the whole row."""
        return self.depthwise.stride


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """An inverted residual with a linear bottleneck (MobileNet V2, V3).

    Attributes:
        expand: the 1x1 expansion; ``None`` where the expansion ratio is 1.
        residual: whether the row's input is added to its output.
    """

    expand: Conv | None
    depthwise: Conv
    squeeze_excite: SqueezeExcite | None
    project: Conv
    residual: bool
    kind: Literal["bottleneck"] = "bottleneck"

    @property
    def stride(self) -> int:
        """The stride of the whole row."""
        return self.depthwise.stride


Row = Conv | Separable | Bottleneck


@dataclass(frozen=True, kw_only=True)
class PoolLinear:
    """Global average pool, dropout, linear classifier."""

    classes: int
    dropout: float = 0.0
    kind: Literal["pool_linear"] = "pool_linear"

    def __post_init__(self) -> None:
        _check_head(self.classes, self.dropout)


@dataclass(frozen=True, kw_only=True)
class PoolLinearLinear:
    """Global average pool, a hidden linear layer, activation, dropout, linear classifier (V3)."""

    hidden: int
    activation: Activation
    classes: int
    dropout: float = 0.0
    kind: Literal["pool_linear_linear"] = "pool_linear_linear"

    def __post_init__(self) -> None:
        _check_range("hidden", self.hidden, 1, LARGEST_CHANNELS)
        _check_head(self.classes, self.dropout)


Head = PoolLinear | PoolLinearLinear


def _check_head(classes: int, dropout: float) -> None:
    _check_range("number of classes", classes, 1, 1_000_000)
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout {dropout} is not at least 0 and below 1")

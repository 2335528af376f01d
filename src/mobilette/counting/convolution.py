"""One convolution against the depthwise separable one that stands in for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mobilette.arch.primitives import INPUT, ConvLayer
from mobilette.arch.rows import Conv
from mobilette.counting.cost import layer_cost
from mobilette.limits import CHANNELS, SIDE


@dataclass(frozen=True, kw_only=True)
class ConvolutionCost:
    """Mult-adds and weights (without biases) of a convolution and its replacement.

    Attributes:
        ratio: mult-adds of depthwise and pointwise together ÷ those of the standard convolution:
            1/N + 1/K² for N output channels and a KxK kernel (arXiv 1704.04861, section 3.1).
    """

    kernel: int
    in_channels: int
    out_channels: int
    out_size: int
    standard_madds: int
    standard_params: int
    depthwise_madds: int
    depthwise_params: int
    pointwise_madds: int
    pointwise_params: int
    separable_madds: int
    ratio: float

    def to_json(self) -> dict[str, object]:
        """Return the numbers as JSON values."""
        return asdict(self)


def compare_convolution(
    *, kernel: int, in_channels: int, out_channels: int, size: int, stride: int = 1
) -> ConvolutionCost:
    """Return what a KxK convolution costs, and what its depthwise separable form would.

    Args:
        kernel: odd side of the kernel.
        in_channels: M of the paper.
        out_channels: N of the paper.
        size: side of the square input map in pixels; with padding, that of the output is
            ceil(size / stride).
        stride: of the standard and the depthwise convolution.

    Raises:
        InputError: a value that no convolution has.
    """
    standard = Conv(channels=out_channels, kernel=kernel, stride=stride, activation="none")
    CHANNELS.check("input channels", in_channels)
    SIDE.check("size", size)
    side = -(-size // stride)

    def one(conv: Conv, channels: int) -> tuple[int, int]:
        layer = ConvLayer(
            name="conv",
            inputs=(INPUT,),
            shape=(conv.channels, side, side),
            in_channels=channels,
            kernel=conv.kernel,
            stride=conv.stride,
            groups=conv.groups,
            padding=conv.padding,
            bias=conv.bias,
        )
        counted = layer_cost(layer)
        return counted.madds, counted.params

    depthwise = Conv(
        channels=in_channels, kernel=kernel, stride=stride, groups=in_channels, activation="none"
    )
    pointwise = Conv(channels=out_channels, activation="none")
    standard_madds, standard_params = one(standard, in_channels)
    depthwise_madds, depthwise_params = one(depthwise, in_channels)
    pointwise_madds, pointwise_params = one(pointwise, in_channels)
    separable = depthwise_madds + pointwise_madds
    return ConvolutionCost(
        kernel=kernel,
        in_channels=in_channels,
        out_channels=out_channels,
        out_size=side,
        standard_madds=standard_madds,
        standard_params=standard_params,
        depthwise_madds=depthwise_madds,
        depthwise_params=depthwise_params,
        pointwise_madds=pointwise_madds,
        pointwise_params=pointwise_params,
        separable_madds=separable,
        ratio=separable / standard_madds,
    )

"""Compare a convolution with its depthwise separable form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from mobilette.arch.layers import conv_layer
from mobilette.arch.rows import Conv, Padding
from mobilette.counting.cost import layer_cost
from mobilette.limits import CHANNELS, SIDE


@dataclass(frozen=True, kw_only=True)
class ConvolutionCost:
    """Mult-adds and weights (without biases) of a convolution and its replacement.

    ``ratio`` is the mult-adds of depthwise plus pointwise ÷ standard: 1/N + 1/K² for N output
    channels and a KxK kernel (arXiv 1704.04861, section 3.1).
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
    *,
    kernel: int,
    in_channels: int,
    out_channels: int,
    size: int,
    stride: int = 1,
    padding: Padding = "symmetric",
) -> ConvolutionCost:
    """Return the cost of a KxK convolution and of its depthwise separable form.

    Args:
        kernel: odd side of the kernel.
        in_channels: M of the paper.
        out_channels: N of the paper.
        size: side of the square input map in pixels; with padding, the output's is ceil(size /
            stride).
        stride: of the standard and the depthwise convolution.
        padding: of both; ``valid`` is none.

    Raises:
        InputError: a value that no convolution has.
    """
    CHANNELS.check("input channels", in_channels)
    SIDE.check("size", size)
    shape = (in_channels, size, size)
    window = Conv(
        channels=out_channels,
        kernel=kernel,
        stride=stride,
        padding=padding,
        norm="none",
        activation="none",
    )
    per_channel = replace(window, channels=in_channels, groups=in_channels)
    reduced = conv_layer("depthwise", per_channel, shape)
    standard = layer_cost(conv_layer("standard", window, shape))
    depthwise = layer_cost(reduced)
    pointwise = layer_cost(
        conv_layer("pointwise", replace(window, kernel=1, stride=1), reduced.shape)
    )
    separable = depthwise.madds + pointwise.madds
    return ConvolutionCost(
        kernel=kernel,
        in_channels=in_channels,
        out_channels=out_channels,
        out_size=reduced.shape[1],
        standard_madds=standard.madds,
        standard_params=standard.params,
        depthwise_madds=depthwise.madds,
        depthwise_params=depthwise.params,
        pointwise_madds=pointwise.madds,
        pointwise_params=pointwise.params,
        separable_madds=separable,
        ratio=separable / standard.madds,
    )

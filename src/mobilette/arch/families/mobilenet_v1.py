"""MobileNet V1: depthwise separable convolutions.

Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", arXiv 1704.04861, Table 1. The activation is ReLU6, as in the authors' code
(tensorflow/models, slim/nets/mobilenet_v1) and in every published set of weights; the paper says
ReLU.
"""

from __future__ import annotations

from collections.abc import Callable

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Activation, Block, Conv, PoolLinear, Row, Step
from mobilette.arch.scale import Settings, scale_truncated

RELU6: Activation = "relu6"
STEM = 32
# channels, rows, stride of the first row
TABLE = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
# Section 4.1: "the 5 layers of separable filters with feature size 14 x 14 x 512" are removed
SHALLOW_TABLE = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 1, 2), (1024, 2, 2))


def mobilenet_v1(settings: Settings) -> Arch:
    """MobileNet V1."""
    return _network("mobilenet_v1", TABLE, settings, _separable)


def mobilenet_v1_shallow(settings: Settings) -> Arch:
    """MobileNet V1 without its five middle rows of 512 channels (the paper's Table 5)."""
    return _network("mobilenet_v1_shallow", SHALLOW_TABLE, settings, _separable)


def mobilenet_v1_full_conv(settings: Settings) -> Arch:
    """MobileNet V1 with a full 3x3 convolution for each separable one (the paper's Table 4)."""
    return _network("mobilenet_v1_full_conv", TABLE, settings, _full)


def _network(
    name: str,
    table: tuple[tuple[int, int, int], ...],
    settings: Settings,
    row: Callable[[int, int, int], Row],
) -> Arch:
    outputs = [c for c, n, _ in table for _ in range(n)]
    strides = settings.strides([2, *(s if i == 0 else 1 for _, n, s in table for i in range(n))])
    stem = scale_truncated(STEM, settings.width_mult)
    rows: list[Row] = []
    channels = stem
    for published, stride in zip(outputs, strides[1:], strict=True):
        out = scale_truncated(published, settings.width_mult)
        rows.append(row(channels, out, stride))
        channels = out
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=stem, kernel=3, stride=strides[0], activation=RELU6),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes),
    )


def _separable(channels: int, out: int, stride: int) -> Block:
    depthwise = Conv(channels=channels, kernel=3, stride=stride, groups=channels, activation=RELU6)
    pointwise = Conv(channels=out, activation=RELU6)
    return Block(
        entry=(
            Step(name="depthwise", operation=depthwise),
            Step(name="pointwise", operation=pointwise),
        )
    )


def _full(channels: int, out: int, stride: int) -> Conv:
    return Conv(channels=out, kernel=3, stride=stride, activation=RELU6)

"""MobileNet V1: depthwise separable convolutions.

Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", arXiv 1704.04861, Table 1. The activation is ReLU6, as in the authors' code
(tensorflow/models, slim/nets/mobilenet_v1) and all published weights; the paper says ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Activation, Block, Conv, PoolLinear, Row, branch
from mobilette.arch.scale import Settings, scale_truncated

RELU6: Activation = "relu6"
STEM = 32
# channels, rows, stride of the first row
TABLE = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
# Section 4.1: "the 5 layers of separable filters with feature size 14 x 14 x 512" are removed
SHALLOW_TABLE = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 1, 2), (1024, 2, 2))


def mobilenet_v1(
    settings: Settings,
    *,
    name: str = "mobilenet_v1",
    table: Sequence[tuple[int, int, int]] = TABLE,
    full: bool = False,
) -> Arch:
    """MobileNet V1; ``full`` puts a full 3x3 convolution in place of each separable one."""
    outputs = [c for c, n, _ in table for _ in range(n)]
    strides = settings.strides([2, *(s if i == 0 else 1 for _, n, s in table for i in range(n))])
    stem = scale_truncated(STEM, settings.width_mult)
    rows: list[Row] = []
    channels = stem
    for published, stride in zip(outputs, strides[1:], strict=True):
        out = scale_truncated(published, settings.width_mult)
        rows.append(
            Conv(channels=out, kernel=3, stride=stride, activation=RELU6)
            if full
            else _separable(channels, out, stride)
        )
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
    return Block(entry=branch(depthwise=depthwise, pointwise=Conv(channels=out, activation=RELU6)))


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    "mobilenet_v1": mobilenet_v1,
    # Table 5: without the five middle rows of 512 channels
    "mobilenet_v1_shallow": partial(mobilenet_v1, name="mobilenet_v1_shallow", table=SHALLOW_TABLE),
    # Table 4
    "mobilenet_v1_full_conv": partial(mobilenet_v1, name="mobilenet_v1_full_conv", full=True),
}

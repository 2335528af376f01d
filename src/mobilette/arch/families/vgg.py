"""VGG, the baseline for light networks.

Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv 1409.1556, Table 1, configurations A, B, D and E. ``_bn`` has a batch norm after every
convolution, whose biases stay, as in torchvision's weights. The small form averages its last map to
one pixel before the linear layers, where the full form keeps 7x7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Conv, Norm, Pool, PoolLinear, Row
from mobilette.arch.scale import Settings, make_divisible

# depth: convolutions before each of the five pools
TABLE = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = (4096, 4096)


def vgg(settings: Settings, *, depth: int, norm: Norm = "none") -> Arch:
    """VGG with 11, 13, 16 or 19 layers."""
    width = settings.width_mult
    strides = settings.strides([2] * len(CHANNELS))
    rows: list[Row] = []
    for channels, number, stride in zip(CHANNELS, TABLE[depth], strides, strict=True):
        conv = Conv(
            channels=make_divisible(channels * width),
            kernel=3,
            activation="relu",
            norm=norm,
            bias=True,
        )
        rows += [conv] * number
        if stride > 1:  # the small form leaves a pool out
            rows.append(Pool(function="max", kernel=2, stride=2, padding="valid"))
    stem = rows.pop(0)
    assert isinstance(stem, Conv)
    return Arch(
        name=f"vgg{depth}_bn" if norm == "batch" else f"vgg{depth}",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=stem,
        rows=tuple(rows),
        head=PoolLinear(
            classes=settings.num_classes,
            pool=7 if settings.is_full else 1,
            hidden=tuple(make_divisible(features * width) for features in HIDDEN),
            activation="relu",
            dropout=0.5,
        ),
    )


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    **{f"vgg{depth}": partial(vgg, depth=depth) for depth in TABLE},
    **{f"vgg{depth}_bn": partial(vgg, depth=depth, norm="batch") for depth in TABLE},
}

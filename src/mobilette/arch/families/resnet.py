"""ResNet, the yardstick for light networks: for ImageNet, for CIFAR, and MLPerf Tiny's.

He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv 1512.03385, Table 1 and
section 4.2. ``resnet50`` to ``resnet152`` have the stride on the 3x3 convolution, like
torchvision's weights; ``_paper`` has it on the first 1x1, like the paper. ``resnet20`` to
``resnet110`` have shortcuts without weights (option A). ``resnet8`` is the image classifier of
MLPerf Tiny (mlcommons/tiny, keras_model.py): convolutions with biases, TensorFlow's padding,
shortcuts of 1x1 convolutions without batch norm. The last two are made for 32x32 images and have
one form only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.rows import (
    Activation,
    Block,
    Branch,
    Conv,
    Pool,
    PoolLinear,
    Row,
    Subsample,
    branch,
)
from mobilette.arch.scale import Settings, make_divisible

# depth: blocks in each of the four stages
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CHANNELS = (64, 128, 256, 512)
EXPANSION = 4
CIFAR_DEPTHS = (20, 32, 44, 56, 110)
CIFAR_CHANNELS = (16, 32, 64)


def resnet(settings: Settings, *, depth: int, paper: bool = False) -> Arch:
    """ResNet-18 to 152; ``paper`` puts the stride on the first 1x1 convolution."""
    stages = (BASIC | BOTTLENECK)[depth]
    strides = settings.strides(
        [2, 2, *(2 if i == 0 and stage else 1 for stage, n in enumerate(stages) for i in range(n))]
    )
    rows: list[Row] = []
    if strides[1] > 1:
        rows.append(Pool(function="max", kernel=3, stride=2))
    widths = [make_divisible(c * settings.width_mult) for c in CHANNELS]
    channels = widths[0]
    middles = [width for width, n in zip(widths, stages, strict=True) for _ in range(n)]
    for middle, stride in zip(middles, strides[2:], strict=True):
        if depth in BASIC:
            body, channels_out = _basic(middle, stride), middle
        else:
            body, channels_out = _bottleneck(middle, stride, paper=paper), EXPANSION * middle
        rows.append(_residual(body, _projection(channels, channels_out, stride)))
        channels = channels_out
    return Arch(
        name=f"resnet{depth}_paper" if paper else f"resnet{depth}",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(
            channels=widths[0],
            kernel=settings.stem_kernel(7),
            stride=strides[0],
            activation="relu",
        ),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes),
    )


def resnet_cifar(settings: Settings, *, depth: int) -> Arch:
    """ResNet-20 to 110 for CIFAR: 6n + 2 layers, three stages of 16, 32 and 64 channels."""
    widths = [make_divisible(c * settings.width_mult) for c in CIFAR_CHANNELS]
    channels = widths[0]
    rows: list[Row] = []
    for stage, width in enumerate(widths):
        for number in range((depth - 2) // 6):
            stride = 2 if stage and not number else 1
            changes = stride > 1 or channels != width
            shortcut = branch(shortcut=Subsample(channels=width, stride=stride)) if changes else ()
            rows.append(_residual(_basic(width, stride), shortcut))
            channels = width
    return Arch(
        name=f"resnet{depth}",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=widths[0], kernel=3, activation="relu"),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes),
    )


def resnet8(settings: Settings) -> Arch:
    """The ResNet-8 of MLPerf Tiny: one block per stage."""
    widths = [make_divisible(c * settings.width_mult) for c in CIFAR_CHANNELS]
    conv = partial(Conv, padding="tf_same", bias=True)
    rows = []
    for stage, width in enumerate(widths):
        stride = 2 if stage else 1
        body = branch(
            conv1=conv(channels=width, kernel=3, stride=stride, activation="relu"),
            conv2=conv(channels=width, kernel=3, activation="none"),
        )
        projection = conv(channels=width, stride=stride, activation="none", norm="none")
        rows.append(_residual(body, branch(shortcut=projection) if stage else ()))
    return Arch(
        name="resnet8",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=conv(channels=widths[0], kernel=3, activation="relu"),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes),
        norm_epsilon=1e-3,
        norm_momentum=0.01,
    )


IMAGENET_VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    **{f"resnet{depth}": partial(resnet, depth=depth) for depth in BASIC | BOTTLENECK},
    **{f"resnet{depth}_paper": partial(resnet, depth=depth, paper=True) for depth in BOTTLENECK},
}
CIFAR_VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    **{f"resnet{depth}": partial(resnet_cifar, depth=depth) for depth in CIFAR_DEPTHS},
    "resnet8": resnet8,
}


def _residual(body: Branch, shortcut: Branch) -> Block:
    return Block(paths=(body, shortcut), join="add", activation="relu")


def _projection(channels: int, out: int, stride: int) -> Branch:
    """Option B: a 1x1 convolution where the shape changes, else the identity."""
    if stride == 1 and channels == out:
        return ()
    return branch(shortcut=Conv(channels=out, stride=stride, activation="none"))


def _basic(channels: int, stride: int) -> Branch:
    return branch(
        conv1=_conv(channels, 3, stride, "relu"),
        conv2=_conv(channels, 3, 1, "none"),
    )


def _bottleneck(channels: int, stride: int, *, paper: bool) -> Branch:
    first, second = (stride, 1) if paper else (1, stride)
    return branch(
        conv1=_conv(channels, 1, first, "relu"),
        conv2=_conv(channels, 3, second, "relu"),
        conv3=_conv(EXPANSION * channels, 1, 1, "none"),
    )


def _conv(channels: int, kernel: int, stride: int, activation: Activation) -> Conv:
    return Conv(channels=channels, kernel=kernel, stride=stride, activation=activation)

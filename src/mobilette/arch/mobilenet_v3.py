"""MobileNet V3, Large and Small: squeeze-and-excitation, hard-swish, a redesigned tail.

Howard et al. 2019, "Searching for MobileNetV3", arXiv 1905.02244v5, Tables 1 and 2. Batch norm
epsilon 1e-3 and momentum 0.01 (the paper's 0.99 in PyTorch's meaning).

The published widths (Table 9) come out when the expansion is the printed exp size divided by the
printed input, applied to the scaled input, and the last hidden layer is never scaled: 154.6M
mult-adds at 0.75 (printed 155), 69.2M at 0.5 (69), 39.5M at 0.35 (40). torchvision scales the exp
size itself and the hidden layer; `mobilenet_v3_large(settings, torchvision=True)` builds that.
"""

from __future__ import annotations

from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Activation, Bottleneck, Conv, PoolLinearLinear, SqueezeExcite
from mobilette.arch.scale import Settings, make_divisible


class Stage(NamedTuple):
    """One line of the paper's table, in its order of columns."""

    kernel: int
    exp: int
    out: int
    squeeze_excite: bool
    nl: Activation
    s: int


STEM = 16
RE: Activation = "relu"
HS: Activation = "hard_swish"
LARGE = (
    Stage(3, 16, 16, False, RE, 1),
    Stage(3, 64, 24, False, RE, 2),
    Stage(3, 72, 24, False, RE, 1),
    Stage(5, 72, 40, True, RE, 2),
    Stage(5, 120, 40, True, RE, 1),
    Stage(5, 120, 40, True, RE, 1),
    Stage(3, 240, 80, False, HS, 2),
    Stage(3, 200, 80, False, HS, 1),
    Stage(3, 184, 80, False, HS, 1),
    Stage(3, 184, 80, False, HS, 1),
    Stage(3, 480, 112, True, HS, 1),
    Stage(3, 672, 112, True, HS, 1),
    Stage(5, 672, 160, True, HS, 2),
    Stage(5, 960, 160, True, HS, 1),
    Stage(5, 960, 160, True, HS, 1),
)
SMALL = (
    Stage(3, 16, 16, True, RE, 2),
    Stage(3, 72, 24, False, RE, 2),
    Stage(3, 88, 24, False, RE, 1),
    Stage(5, 96, 40, True, HS, 2),
    Stage(5, 240, 40, True, HS, 1),
    Stage(5, 240, 40, True, HS, 1),
    Stage(5, 120, 48, True, HS, 1),
    Stage(5, 144, 48, True, HS, 1),
    Stage(5, 288, 96, True, HS, 2),
    Stage(5, 576, 96, True, HS, 1),
    Stage(5, 576, 96, True, HS, 1),
)


def mobilenet_v3_large(settings: Settings, *, torchvision: bool = False) -> Arch:
    """MobileNet V3 Large."""
    return _network("mobilenet_v3_large", LARGE, 1280, settings, torchvision)


def mobilenet_v3_small(settings: Settings, *, torchvision: bool = False) -> Arch:
    """MobileNet V3 Small."""
    return _network("mobilenet_v3_small", SMALL, 1024, settings, torchvision)


def _network(
    name: str, table: tuple[Stage, ...], hidden: int, settings: Settings, torchvision: bool
) -> Arch:
    width = settings.width_mult
    strides = settings.strides([2, *(stage.s for stage in table)])
    stem = make_divisible(STEM * width)
    rows: list[Bottleneck | Conv] = []
    channels, published = stem, STEM
    for stage, stride in zip(table, strides[1:], strict=True):
        out = make_divisible(stage.out * width)
        scaled = stage.exp * width if torchvision else channels * stage.exp / published
        rows.append(_bottleneck(channels, make_divisible(scaled), out, stage, stride))
        channels, published = out, stage.out
    # The last convolution of both tables has six times the channels of its input.
    last = 6 * channels if torchvision else make_divisible(6 * published * width)
    rows.append(Conv(channels=last, activation=HS))
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=stem, kernel=3, stride=strides[0], activation=HS),
        rows=tuple(rows),
        head=PoolLinearLinear(
            hidden=make_divisible(hidden * width) if torchvision else hidden,
            activation=HS,
            classes=settings.num_classes,
            dropout=0.2,
        ),
        norm_epsilon=1e-3,
        norm_momentum=0.01,
    )


def _bottleneck(channels: int, expanded: int, out: int, stage: Stage, stride: int) -> Bottleneck:
    return Bottleneck(
        expand=Conv(channels=expanded, activation=stage.nl) if expanded != channels else None,
        depthwise=Conv(
            channels=expanded,
            kernel=stage.kernel,
            stride=stride,
            groups=expanded,
            activation=stage.nl,
        ),
        squeeze_excite=_squeeze_excite(expanded) if stage.squeeze_excite else None,
        project=Conv(channels=out, activation="none"),
        residual=stride == 1 and channels == out,
    )


def _squeeze_excite(channels: int) -> SqueezeExcite:
    return SqueezeExcite(
        reduce=Conv(
            channels=make_divisible(channels // 4), bias=True, norm="none", activation="relu"
        ),
        expand=Conv(channels=channels, bias=True, norm="none", activation="hard_sigmoid"),
    )

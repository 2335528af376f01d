"""MobileNet V3, Large and Small: squeeze-and-excitation, hard-swish, a redesigned tail.

Howard et al. 2019, "Searching for MobileNetV3", arXiv 1905.02244v5, Tables 1 and 2. Batch norm
epsilon 1e-3 and momentum 0.01 (the paper's 0.99 in PyTorch's meaning).

The published widths (Table 9) result if the expansion ratio is the printed exp size divided by the
printed input, applied to the scaled input, and the last hidden layer is never scaled: 154.6M
mult-adds at 0.75 (printed 155), 69.2M at 0.5 (69), 39.5M at 0.35 (40). torchvision scales the exp
size itself and the hidden layer; `mobilenet_v3_large(settings, torchvision=True)` builds that. timm
keeps the stem at 16 channels below 0.75; ``full_stem`` builds that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.families.mobilenet_v2 import bottleneck
from mobilette.arch.rows import Activation, Conv, PoolLinear, Row, SqueezeExcite
from mobilette.arch.scale import Settings, make_divisible


class Stage(NamedTuple):
    """One line of the paper's table, in its column order."""

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


def mobilenet_v3_large(
    settings: Settings, *, torchvision: bool = False, full_stem: bool = False
) -> Arch:
    """MobileNet V3 Large."""
    return _network("mobilenet_v3_large", LARGE, 1280, settings, torchvision, full_stem)


def mobilenet_v3_small(
    settings: Settings, *, torchvision: bool = False, full_stem: bool = False
) -> Arch:
    """MobileNet V3 Small."""
    return _network("mobilenet_v3_small", SMALL, 1024, settings, torchvision, full_stem)


def _minimalistic(table: tuple[Stage, ...]) -> tuple[Stage, ...]:
    # tensorflow/models, slim/nets/mobilenet/mobilenet_v3.py: for hardware without the extras
    return tuple(stage._replace(kernel=3, squeeze_excite=False, nl=RE) for stage in table)


def _network(
    name: str,
    table: tuple[Stage, ...],
    hidden: int,
    settings: Settings,
    torchvision: bool = False,
    full_stem: bool = False,
) -> Arch:
    width = settings.width_mult
    tail = table[-1].nl
    strides = settings.strides([2, *(stage.s for stage in table)])
    stem = STEM if full_stem else make_divisible(STEM * width)
    rows: list[Row] = []
    channels, published = stem, STEM
    for stage, stride in zip(table, strides[1:], strict=True):
        out = make_divisible(stage.out * width)
        scaled = stage.exp * width if torchvision else channels * stage.exp / published
        expanded = make_divisible(scaled)
        rows.append(
            bottleneck(
                channels,
                expanded,
                out,
                stride=stride,
                kernel=stage.kernel,
                activation=stage.nl,
                squeeze_excite=_squeeze_excite(expanded) if stage.squeeze_excite else None,
            )
        )
        channels, published = out, stage.out
    # The last convolution of both tables has six times its input's channels.
    last = 6 * channels if torchvision else make_divisible(6 * published * width)
    rows.append(Conv(channels=last, activation=tail))
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=stem, kernel=3, stride=strides[0], activation=tail),
        rows=tuple(rows),
        head=PoolLinear(
            hidden=(make_divisible(hidden * width) if torchvision else hidden,),
            activation=tail,
            classes=settings.num_classes,
            dropout=0.2,
        ),
        norm_epsilon=1e-3,
        norm_momentum=0.01,
    )


def _squeeze_excite(channels: int) -> SqueezeExcite:
    return SqueezeExcite(
        reduce=Conv(
            channels=make_divisible(channels // 4), bias=True, norm="none", activation="relu"
        ),
        expand=Conv(channels=channels, bias=True, norm="none", activation="hard_sigmoid"),
    )


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v3_small": mobilenet_v3_small,
    # 3x3 kernels and ReLU only, no squeeze-and-excitation
    "mobilenet_v3_large_minimalistic": partial(
        _network, "mobilenet_v3_large_minimalistic", _minimalistic(LARGE), 1280
    ),
    "mobilenet_v3_small_minimalistic": partial(
        _network, "mobilenet_v3_small_minimalistic", _minimalistic(SMALL), 1024
    ),
}

"""MnasNet A1, B1 and small: inverted residuals found by a search for a phone's latency.

Tan et al. 2019, "MnasNet: Platform-Aware Neural Architecture Search for Mobile", arXiv 1807.11626,
Figure 7; B1 (without squeeze-and-excitation) and small are those of the reference code
(tensorflow/tpu, models/official/mnasnet/mnasnet_models.py). timm calls A1 ``semnasnet`` and B1
``mnasnet``; torchvision's ``mnasnet`` is B1. The squeeze has a quarter of the block's input
channels, its gate is a sigmoid. The width multiplier scales the stem, too, but not the last 1,280.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.families.mobilenet_v2 import bottleneck
from mobilette.arch.rows import Activation, Conv, PoolLinear, Row, SqueezeExcite
from mobilette.arch.scale import Settings, make_divisible


class Stage(NamedTuple):
    """Rows that differ in their stride only: that of the first is ``s``, of the others 1."""

    kernel: int
    t: int  # expansion ratio
    c: int  # channels
    n: int  # rows
    s: int
    squeeze_excite: bool = False


A1 = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 6, 24, 2, 2),
    Stage(5, 3, 40, 3, 2, squeeze_excite=True),
    Stage(3, 6, 80, 4, 2),
    Stage(3, 6, 112, 2, 1, squeeze_excite=True),
    Stage(5, 6, 160, 3, 2, squeeze_excite=True),
    Stage(3, 6, 320, 1, 1),
)
B1 = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 3, 24, 3, 2),
    Stage(5, 3, 40, 3, 2),
    Stage(5, 6, 80, 3, 2),
    Stage(3, 6, 96, 2, 1),
    Stage(5, 6, 192, 4, 2),
    Stage(3, 6, 320, 1, 1),
)
SMALL = (
    Stage(3, 1, 8, 1, 1),
    Stage(3, 3, 16, 1, 2),
    Stage(3, 6, 16, 2, 2),
    Stage(5, 6, 32, 4, 2, squeeze_excite=True),
    Stage(3, 6, 32, 3, 1, squeeze_excite=True),
    Stage(5, 6, 88, 3, 2, squeeze_excite=True),
    Stage(3, 6, 144, 1, 1),
)


def searched(
    settings: Settings,
    *,
    name: str,
    table: Sequence[Stage],
    stem: int,
    last: int = 1280,
    activation: Activation = "relu",
    scale_stem: bool = True,
    base_width: float = 1.0,
    expand_always: bool = False,
    dropout: float = 0.2,
) -> Arch:
    """Return a network of inverted residuals in stages, with a last convolution and a classifier.

    Args:
        settings: width, resolution, classes.
        name: of the network.
        table: the stages; `FBNet`, `Single-Path NAS` and `EfficientNet-Lite` have such tables too.
        stem: channels of the first convolution at width 1.
        last: channels of the last convolution, never scaled.
        activation: of every convolution that has one.
        scale_stem: whether the width multiplier scales the stem.
        base_width: width multiplier of the network itself.
        expand_always: whether a block of expansion ratio 1 has its 1x1 convolution as well.
        dropout: before the classifier.
    """
    width = settings.width_mult * base_width
    each = [(stage, stage.s if i == 0 else 1) for stage in table for i in range(stage.n)]
    strides = settings.strides([2, *(stride for _, stride in each)])
    channels = first = make_divisible(stem * (width if scale_stem else 1.0))
    rows: list[Row] = []
    for (stage, _), stride in zip(each, strides[1:], strict=True):
        out = make_divisible(stage.c * width)
        expanded = make_divisible(channels * stage.t)
        gate = _squeeze_excite(channels, expanded) if stage.squeeze_excite else None
        rows.append(
            bottleneck(
                channels,
                expanded,
                out,
                stride=stride,
                kernel=stage.kernel,
                activation=activation,
                squeeze_excite=gate,
                expand_always=expand_always,
            )
        )
        channels = out
    rows.append(Conv(channels=last, activation=activation))
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=first, kernel=3, stride=strides[0], activation=activation),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes, dropout=dropout),
    )


def _squeeze_excite(channels: int, expanded: int) -> SqueezeExcite:
    return SqueezeExcite(
        reduce=Conv(channels=round(channels / 4), bias=True, norm="none", activation="relu"),
        expand=Conv(channels=expanded, bias=True, norm="none", activation="sigmoid"),
    )


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    "mnasnet_a1": partial(searched, name="mnasnet_a1", table=A1, stem=32),
    "mnasnet_b1": partial(searched, name="mnasnet_b1", table=B1, stem=32),
    "mnasnet_small": partial(searched, name="mnasnet_small", table=SMALL, stem=8),
}

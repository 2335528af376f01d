"""MobileNet V2: inverted residuals with linear bottlenecks.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381,
Table 2. The first bottleneck, whose expansion ratio is 1, has no 1x1 expansion; re-implementations
that add one count 1,088 parameters too many.

``_110d`` and ``_120d`` are timm's deeper networks (timm/models/efficientnet.py, mobilenetv2_110d):
the rows of all stages but the first and last are multiplied and rounded up, as in EfficientNet (Tan
and Le 2019); stem and last convolution are not scaled. Their width multiplier is relative to timm's
1.1 and 1.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.rows import (
    Activation,
    Block,
    Conv,
    Operation,
    PoolLinear,
    Row,
    SqueezeExcite,
    branch,
)
from mobilette.arch.scale import Settings, make_divisible

STEM = 32
# t (expansion ratio), c (channels), n (rows), s (stride of the first row)
TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280
PUBLISHED = tuple(n for _, _, n, _ in TABLE)


def _deepened(factor: float) -> tuple[int, ...]:
    first, *middle, last = PUBLISHED
    return (first, *(math.ceil(n * factor) for n in middle), last)


# rows in each stage
STAGES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "mobilenet_v2": PUBLISHED,
        "mobilenet_v2_110d": _deepened(1.2),
        "mobilenet_v2_120d": _deepened(1.4),
    }
)


def mobilenet_v2(settings: Settings) -> Arch:
    """MobileNet V2; widths below 1 keep the last convolution at 1,280 channels."""
    return _network(settings, name="mobilenet_v2")


def _network(settings: Settings, *, name: str, base_width: float = 1.0) -> Arch:
    given, width = settings.width_mult, base_width * settings.width_mult
    stem, last = make_divisible(STEM * given), make_divisible(LAST * max(1.0, given))
    blocks = [
        (t, c, s if i == 0 else 1)
        for (t, c, _, s), n in zip(TABLE, STAGES[name], strict=True)
        for i in range(n)
    ]
    strides = settings.strides([2, *(stride for _, _, stride in blocks)])
    rows: list[Row] = []
    channels = stem
    for (t, c, _), stride in zip(blocks, strides[1:], strict=True):
        out = make_divisible(c * width)
        rows.append(bottleneck(channels, channels * t, out, stride=stride))
        channels = out
    rows.append(Conv(channels=last, activation="relu6"))
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=stem, kernel=3, stride=strides[0], activation="relu6"),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes, dropout=0.2),
    )


def bottleneck(
    channels: int,
    expanded: int,
    out: int,
    *,
    stride: int,
    kernel: int = 3,
    activation: Activation = "relu6",
    squeeze_excite: SqueezeExcite | None = None,
    expand_always: bool = False,
) -> Block:
    """Return the inverted residual: expand (1x1), depthwise, project (1x1, linear).

    The expansion is omitted where it would not expand, unless ``expand_always``; the
    residual is added where shapes allow.
    """
    operations: dict[str, Operation] = {}
    if expanded != channels or expand_always:
        operations["expand"] = Conv(channels=expanded, activation=activation)
    operations["depthwise"] = Conv(
        channels=expanded, kernel=kernel, stride=stride, groups=expanded, activation=activation
    )
    if squeeze_excite is not None:
        operations["squeeze_excite"] = squeeze_excite
    path = branch(**operations, project=Conv(channels=out, activation="none"))
    if stride == 1 and channels == out:
        return Block(paths=(path, ()), join="add")
    return Block(entry=path)


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v2_110d": partial(_network, name="mobilenet_v2_110d", base_width=1.1),
    "mobilenet_v2_120d": partial(_network, name="mobilenet_v2_120d", base_width=1.2),
}

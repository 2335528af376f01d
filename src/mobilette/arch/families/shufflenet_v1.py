"""ShuffleNet V1: grouped pointwise convolutions with a channel shuffle between them.

Zhang et al. 2018, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile
Devices", arXiv 1707.01083, Table 1 and Figure 2. The name contains the number of groups; the width
multiplier is the paper's scale factor and includes the stem. As in the authors' code
(megvii-model/ShuffleNet-Series), the stem has 24 channels at scale 1.5, and 16 at scale 0.5 with 8
groups: the smallest stem that the groups divide.
"""

from __future__ import annotations

from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.rows import (
    Block,
    ChannelShuffle,
    Conv,
    Operation,
    Pool,
    PoolLinear,
    Row,
    branch,
)
from mobilette.arch.scale import Settings

STEM = 24  # also at scale 1.5
# groups: channels of stage 2; each later stage has twice as many
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
UNITS = (4, 8, 4)


def shufflenet_v1(settings: Settings, *, groups: int) -> Arch:
    """ShuffleNet V1 with 1, 2, 3, 4 or 8 groups."""
    strides = settings.strides([2, 2, *(2 if i == 0 else 1 for n in UNITS for i in range(n))])
    stage2 = _round_up(round(CHANNELS[groups] * settings.width_mult), groups)
    scale = 1.0 if settings.width_mult == 1.5 else settings.width_mult
    # The first unit's new channels, all but the stem's, come from a grouped convolution.
    stem = max(1, int(STEM * scale))
    while (stage2 - stem) % groups:
        stem += 1
    stage2 = max(stage2, stem + groups)  # at the narrowest widths
    outputs = [stage2 << stage for stage, n in enumerate(UNITS) for _ in range(n)]
    rows: list[Row] = []
    if strides[1] > 1:
        rows.append(Pool(function="max", kernel=3, stride=2))
    channels = stem
    for number, (out, stride) in enumerate(zip(outputs, strides[2:], strict=True)):
        rows.append(_unit(channels, out, stride, groups, is_first=number == 0))
        channels = out
    return Arch(
        name=f"shufflenet_v1_g{groups}",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=stem, kernel=3, stride=strides[0], activation="relu"),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes),
    )


VARIANTS = {
    f"shufflenet_v1_g{groups}": partial(shufflenet_v1, groups=groups) for groups in CHANNELS
}


def _unit(channels: int, out: int, stride: int, groups: int, *, is_first: bool) -> Block:
    """Figure 2 b (stride 1) and c (stride 2)."""
    joined_by_concat = channels != out
    compressed = _round_up(out // 4, groups)
    operations: dict[str, Operation] = {
        "compress": Conv(channels=compressed, groups=1 if is_first else groups, activation="relu")
    }
    if groups > 1:
        operations["channel_shuffle"] = ChannelShuffle(groups=groups)
    operations["depthwise"] = Conv(
        channels=compressed, kernel=3, stride=stride, groups=compressed, activation="none"
    )
    added = out - channels if joined_by_concat else out
    path = branch(**operations, expand=Conv(channels=added, groups=groups, activation="none"))
    if not joined_by_concat:
        return Block(paths=((), path), join="add", activation="relu")
    pool = branch(shortcut=Pool(function="average", kernel=3, stride=stride))
    return Block(paths=(pool, path), join="concat", activation="relu")


def _round_up(channels: int, divisor: int) -> int:
    return max(1, -(-channels // divisor)) * divisor

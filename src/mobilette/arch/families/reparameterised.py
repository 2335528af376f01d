"""RepVGG and MobileOne: trained with parallel branches, deployed as single convolutions.

Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", arXiv 2101.03697, Table 2 (A0);
Vasu et al. 2023, "MobileOne: An Improved One Millisecond Mobile Backbone", arXiv 2206.04040,
Table 2 (S0: four branches with kernels, one 1x1, a batch norm alone). These are the
networks as trained; `mobilette.compression.merge_branches` makes the deployed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mobilette.arch.arch import Arch
from mobilette.arch.rows import BatchNorm, Block, Conv, PoolLinear, Row, branch
from mobilette.arch.scale import Settings, make_divisible

CONVS = ("conv1", "conv2", "conv3", "conv4")
# channels at width 1, rows
REPVGG_A0 = ((48, 2), (96, 4), (192, 14), (1280, 1))
MOBILEONE_S0 = ((48, 2), (128, 8), (256, 10), (1024, 1))


def repvgg_a0(settings: Settings) -> Arch:
    """RepVGG-A0."""
    width = settings.width_mult
    strides = settings.strides([2, *(2 if i == 0 else 1 for _, n in REPVGG_A0 for i in range(n))])
    channels = make_divisible(REPVGG_A0[0][0] * width)
    stem = branched(settings.in_channels, channels, kernel=3, stride=strides[0])
    rows: list[Row] = []
    for out in (make_divisible(c * width) for c, n in REPVGG_A0 for _ in range(n)):
        rows.append(branched(channels, out, kernel=3, stride=strides[len(rows) + 1]))
        channels = out
    return _network("repvgg_a0", settings, stem, rows)


def mobileone_s0(settings: Settings) -> Arch:
    """MobileOne-S0: rows come in pairs, depthwise and pointwise."""
    width = settings.width_mult
    strides = settings.strides(
        [2, *(2 if i == 0 else 1 for _, n in MOBILEONE_S0 for i in range(n))]
    )
    channels = make_divisible(MOBILEONE_S0[0][0] * width)
    stem = branched(settings.in_channels, channels, kernel=3, stride=strides[0])
    rows: list[Row] = []
    outs = [make_divisible(c * width) for c, n in MOBILEONE_S0 for _ in range(n)]
    for out, stride in zip(outs, strides[1:], strict=True):
        rows.append(
            branched(
                channels, channels, kernel=3, stride=stride, groups=channels, branches=len(CONVS)
            )
        )
        rows.append(branched(channels, out, kernel=1, stride=1, branches=len(CONVS)))
        channels = out
    return _network("mobileone_s0", settings, stem, rows)


def _network(name: str, settings: Settings, stem: Block, rows: list[Row]) -> Arch:
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=stem,
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes),
    )


def branched(
    channels: int, out: int, *, kernel: int, stride: int, groups: int = 1, branches: int = 1
) -> Block:
    """Return a batch norm, ``branches`` convolutions and a 1x1 one, added, then ReLU.

    There is no 1x1 branch beside 1x1 kernels, and no batch norm where the shapes differ.
    """

    def conv(side: int) -> Conv:
        return Conv(channels=out, kernel=side, stride=stride, groups=groups, activation="none")

    paths = [branch(identity=BatchNorm())] if channels == out and stride == 1 else []
    paths += [branch(**{name: conv(kernel)}) for name in CONVS[:branches]]
    if kernel > 1:
        paths.append(branch(conv1x1=conv(1)))
    return Block(paths=tuple(paths), join="add", activation="relu")


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    "repvgg_a0": repvgg_a0,
    "mobileone_s0": mobileone_s0,
}

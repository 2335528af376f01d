"""SqueezeNet: fire modules, 3x3 kernels only where they pay.

Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size", arXiv 1602.07360, Table 1; version 1.1 from the authors' repository. As in their released
models, the stem has no padding and the pools round up. These have no batch norm and hardly train
from scratch with today's recipes; the ``_bn`` forms have one after every convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Block, Conv, ConvPool, Norm, Pool, Row, branch
from mobilette.arch.scale import Settings, make_divisible

# s1x1, e1x1 (e3x3 is the same) of fire2 to fire9
FIRE = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
POOL = None
TABLE_1_0 = (POOL, *FIRE[:3], POOL, *FIRE[3:7], POOL, *FIRE[7:])
TABLE_1_1 = (POOL, *FIRE[:2], POOL, *FIRE[2:4], POOL, *FIRE[4:])
# channels and kernel of the first convolution
STEM_1_0 = (96, 7)
STEM_1_1 = (64, 3)

Table = tuple[tuple[int, int] | None, ...]


def _network(
    name: str, stem: tuple[int, int], table: Table, norm: Norm, settings: Settings
) -> Arch:
    strides = settings.strides([2, *(2 if line is POOL else 1 for line in table)])
    rows: list[Row] = []
    for line, stride in zip(table, strides[1:], strict=True):
        if line is not POOL:
            squeeze, expand = (make_divisible(c * settings.width_mult) for c in line)
            rows.append(_fire(squeeze, expand, norm))
        elif stride > 1:  # the small form leaves a pool out
            rows.append(Pool(function="max", kernel=3, stride=2, padding="valid", ceil_mode=True))
    channels, kernel = stem
    return Arch(
        name=name,
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(
            channels=make_divisible(channels * settings.width_mult),
            kernel=settings.stem_kernel(kernel),
            stride=strides[0],
            padding="valid" if settings.is_full else "symmetric",
            activation="relu",
            norm=norm,
            bias=norm == "none",
        ),
        rows=tuple(rows),
        head=ConvPool(classes=settings.num_classes, norm=norm, dropout=0.5),
    )


def _fire(squeeze: int, expand: int, norm: Norm) -> Block:
    conv = partial(Conv, activation="relu", norm=norm, bias=norm == "none")
    return Block(
        entry=branch(squeeze=conv(channels=squeeze)),
        paths=(
            branch(expand1x1=conv(channels=expand)),
            branch(expand3x3=conv(channels=expand, kernel=3)),
        ),
        join="concat",
    )


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    "squeezenet1_0": partial(_network, "squeezenet1_0", STEM_1_0, TABLE_1_0, "none"),
    "squeezenet1_0_bn": partial(_network, "squeezenet1_0_bn", STEM_1_0, TABLE_1_0, "batch"),
    "squeezenet1_1": partial(_network, "squeezenet1_1", STEM_1_1, TABLE_1_1, "none"),
    "squeezenet1_1_bn": partial(_network, "squeezenet1_1_bn", STEM_1_1, TABLE_1_1, "batch"),
}

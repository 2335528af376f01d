"""ShuffleNet V2: channel split, equal widths, one shuffle at the end of a unit.

Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", arXiv
1807.11164, Table 5 and Figure 3. Widths other than the four published scale the channels of 1.0 to
even numbers and keep the last convolution at 1,024.
"""

from __future__ import annotations

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Block, Branch, Conv, Pool, PoolLinear, Row, branch
from mobilette.arch.scale import Settings

STEM = 24
# channels of stages 2, 3, 4 and of the last convolution
CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
UNITS = (4, 8, 4)


def shufflenet_v2(settings: Settings) -> Arch:
    """ShuffleNet V2."""
    *stages, last = _channels(settings.width_mult)
    firsts = [number == 0 for units in UNITS for number in range(units)]
    strides = settings.strides([2, 2, *(2 if first else 1 for first in firsts)])
    rows: list[Row] = []
    if strides[1] > 1:
        rows.append(Pool(function="max", kernel=3, stride=2))
    channels = STEM
    outputs = [c for c, n in zip(stages, UNITS, strict=True) for _ in range(n)]
    for out, stride, first in zip(outputs, strides[2:], firsts, strict=True):
        # Not where the channels change: at some widths stage 2 has as many as the stem.
        rows.append(_first_unit(channels, out // 2, stride) if first else _unit(out // 2))
        channels = out
    rows.append(Conv(channels=last, activation="relu"))
    return Arch(
        name="shufflenet_v2",
        resolution=settings.resolution,
        in_channels=settings.in_channels,
        stem=Conv(channels=STEM, kernel=3, stride=strides[0], activation="relu"),
        rows=tuple(rows),
        head=PoolLinear(classes=settings.num_classes),
    )


def _channels(width_mult: float) -> tuple[int, ...]:
    if width_mult in CHANNELS:
        return CHANNELS[width_mult]
    *stages, last = CHANNELS[1.0]
    return (*(max(2, 2 * round(c * width_mult / 2)) for c in stages), last)


def _unit(half: int) -> Block:
    """Figure 3 c: half of the channels bypass the unit."""
    return Block(paths=((), _branch(half, 1)), join="concat", split=True, shuffle=2)


def _first_unit(channels: int, half: int, stride: int) -> Block:
    """Figure 3 d: both paths see all channels."""
    shortcut = branch(
        shortcut=_depthwise(channels, stride),
        shortcut_pointwise=Conv(channels=half, activation="relu"),
    )
    return Block(paths=(shortcut, _branch(half, stride)), join="concat", shuffle=2)


def _branch(channels: int, stride: int) -> Branch:
    conv = Conv(channels=channels, activation="relu")
    return branch(conv1=conv, depthwise=_depthwise(channels, stride), conv2=conv)


def _depthwise(channels: int, stride: int) -> Conv:
    return Conv(channels=channels, kernel=3, stride=stride, groups=channels, activation="none")


VARIANTS = {"shufflenet_v2": shufflenet_v2}

"""What the linear bottleneck is for: thin between the blocks, wide inside.

python -m docs.blocks.bottleneck
"""

from __future__ import annotations

from docs.blocks.plain_table import plain_table
from docs.blocks.published import V1, V2
from docs.blocks.separable import convolutions, separable, standard
from docs.blocks.show import show
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ActivationLayer, ConvLayer
from mobilette.arch.rows import Block, Conv
from mobilette.counting.cost import cost

THIN, WIDE, SIZE = 24, 144, 56


def one_block() -> str:
    """Return three ways to have 144 filters at 56x56, as a table."""
    inside = convolutions(
        Conv(channels=WIDE, activation="none", norm="none"),
        Conv(channels=WIDE, kernel=3, groups=WIDE, activation="none", norm="none"),
        Conv(channels=THIN, activation="none", norm="none"),
        channels=THIN,
        size=SIZE,
    )
    ways = {
        f"standard {WIDE} -> {WIDE}": ((standard(3, WIDE, WIDE, SIZE),), WIDE),
        f"separable {WIDE} -> {WIDE}": (separable(3, WIDE, WIDE, SIZE), WIDE),
        f"bottleneck {THIN} -> {WIDE} -> {THIN}": (inside, THIN),
    }
    rows = [
        (
            name,
            f"{sum(part.madds for part in parts):,}",
            f"{sum(part.params for part in parts):,}",
            f"{passed_on * SIZE**2:,}",
        )
        for name, (parts, passed_on) in ways.items()
    ]
    return plain_table(
        (f"3x3 at {SIZE}x{SIZE}", "mult-adds", "parameters", "int8 bytes passed on"), rows
    )


def widest_channels(arch: Arch) -> dict[int, tuple[int, int]]:
    """Return, by side of the map, the most channels that a block passes on and has inside."""
    widest: dict[int, tuple[int, int]] = {}
    for number, row in enumerate(arch.rows):
        if isinstance(row, Block):
            shapes = [
                layer.shape for layer in layers(arch) if layer.name.startswith(f"rows.{number}.")
            ]
            for position, (channels, side, _) in enumerate(shapes, 1):
                passed_on, inside = widest.get(side, (0, 0))
                if position == len(shapes):
                    passed_on = max(passed_on, channels)
                widest[side] = (passed_on, max(inside, channels))
    return widest


def two_networks() -> str:
    """Return the tensors of MobileNet V1 and V2 by resolution, and what both cost."""
    arches = [get_arch(published.name) for published in (V1, V2)]
    v1, v2 = map(widest_channels, arches)
    channels = plain_table(
        ("map", "V1 between blocks", "V2 between blocks", "V2 inside"),
        [
            (f"{side}x{side}", str(v1[side][0]), str(v2[side][0]), str(v2[side][1]))
            for side in sorted(v1, reverse=True)
        ],
    )
    totals = plain_table(
        ("", "mult-adds", "parameters", "int8 peak activations", "top-1 (paper)"),
        [
            (
                c.name,
                f"{c.madds:,}",
                f"{c.params:,}",
                f"{c.peak_activation_bytes.int8:,}",
                f"{published.top1}%",
            )
            for c, published in zip(map(cost, arches), (V1, V2), strict=True)
        ],
    )
    return f"{channels}\n\n{totals}\nlinear convolutions in mobilenet_v2: {linear(arches[1])}"


def linear(arch: Arch) -> int:
    """Return how many convolutions have no activation after them."""
    graph = layers(arch)
    convs = sum(isinstance(layer, ConvLayer) for layer in graph)
    return convs - sum(isinstance(layer, ActivationLayer) for layer in graph)


if __name__ == "__main__":
    show(one_block, two_networks)

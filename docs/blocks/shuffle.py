"""What the channel shuffle is for: which channels know of which, with it and without.

python -m docs.blocks.shuffle
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from docs.blocks.plain_table import plain_table
from docs.blocks.published import GROUPS, SHUFFLE
from docs.blocks.show import show
from docs.blocks.style import BLUE, GREY, ORANGE, VERMILION
from docs.blocks.without import without
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    ActivationLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    NormLayer,
    PoolLayer,
    ShuffleLayer,
)
from mobilette.arch.rows import ChannelShuffle
from mobilette.counting.cost import cost

Mask = npt.NDArray[np.bool_]

DRAWN, UNIT = "shufflenet_v1_g3", 2  # the second unit of stage 2: 240 channels in and out
LAST_OF_STAGE, LAST = 4, 16


def reach(arch: Arch, first: int, last: int) -> dict[str, Mask]:
    """Return for each layer of the rows ``first`` to ``last`` which channels reach which.

    ``reach(...)[layer][o, i]`` says whether output channel ``o`` of the layer depends on channel
    ``i`` of what row ``first`` reads.
    """
    inside = tuple(f"rows.{number}." for number in range(first, last + 1))
    graph = [layer for layer in layers(arch) if layer.name.startswith(inside)]
    source = next(layer for layer in layers(arch) if layer.name == graph[0].inputs[0])
    masks = {source.name: np.eye(source.shape[0], dtype=bool)}
    for layer in graph:
        masks[layer.name] = _through(layer, [masks[name] for name in layer.inputs])
    return masks


def _through(layer: AnyLayer, masks: list[Mask]) -> Mask:
    match layer:
        case ConvLayer():
            groups = np.split(masks[0], layer.groups)
            each = layer.shape[0] // layer.groups
            return np.concatenate([np.tile(group.any(axis=0), (each, 1)) for group in groups])
        case ShuffleLayer():
            channels, inputs = masks[0].shape
            grouped = masks[0].reshape(layer.groups, channels // layer.groups, inputs)
            return grouped.swapaxes(0, 1).reshape(channels, inputs)
        case AddLayer():
            return np.asarray(np.any(masks, axis=0))
        case ConcatLayer():
            return np.concatenate(masks)
        case NormLayer() | ActivationLayer() | PoolLayer():
            return masks[0]
        case _:
            raise TypeError(f"{layer.name}: {type(layer).__name__} is in no ShuffleNet V1 unit")


def reached(arch: Arch, last: int) -> float:
    """Return the part of (input, output) channels that are connected from UNIT to row ``last``."""
    return float(list(reach(arch, UNIT, last).values())[-1].mean())


def connected() -> str:
    """Return how much of a network is connected with the shuffle and without, as a table."""
    rows = []
    for groups in (2, 3, 4, 8):
        arch = get_arch(f"shufflenet_v1_g{groups}")
        plain = without(arch, ChannelShuffle)
        rows.append(
            (
                arch.name,
                f"{reached(plain, UNIT):.1%}",
                f"{reached(plain, LAST_OF_STAGE):.1%}",
                f"{reached(plain, LAST):.1%}",
                f"{reached(arch, UNIT):.1%}",
                _gain(*SHUFFLE[1.0, groups]) if (1.0, groups) in SHUFFLE else "-",
            )
        )
    header = ("", "one unit", "three", "to the end", "one, shuffled", "top-1 (paper)")
    return plain_table(header, rows)


def _gain(before: float, after: float) -> str:
    """Return two top-1 errors as accuracies, and the points between them."""
    return f"{100 - before:.1f}% -> {100 - after:.1f}%, {before - after:+.1f}"


def counted() -> str:
    """Return what groups buy and what the shuffle costs, as a table."""
    rows = []
    for groups in (1, 2, 3, 4, 8):
        arch = get_arch(f"shufflenet_v1_g{groups}")
        c, plain = cost(arch), cost(without(arch, ChannelShuffle))
        peak = c.peak_activation_bytes.int8 - plain.peak_activation_bytes.int8
        widths = [layer.shape[0] for layer in layers(arch) if layer.name.endswith(".add")]
        shuffled = sum(
            prod(layer.shape) for layer in layers(arch) if isinstance(layer, ShuffleLayer)
        )
        rows.append(
            (
                arch.name,
                "/".join(map(str, dict.fromkeys(widths))),
                f"{c.madds:,}",
                f"{c.params:,}",
                f"{GROUPS[groups]}%",
                f"{shuffled:,}",
                f"{c.madds - plain.madds} / {c.params - plain.params} / {peak}",
            )
        )
    header = ("", "channels", "mult-adds", "parameters", "top-1 (paper)", "bytes shuffled", "added")
    return (
        f"{plain_table(header, rows)}\n"
        "bytes in int8; added by the shuffle: mult-adds / parameters / bytes of peak activations"
    )


def draw() -> Figure:
    """Draw which group each output of a unit's layers depends on, without and with the shuffle."""
    arch = get_arch(DRAWN)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    grid = figure.subplots(2, 3)
    row = f"rows.{UNIT}"
    for line, (network, label, middle) in zip(
        grid,
        (
            (without(arch, ChannelShuffle), "without shuffle", f"{row}.compress.activation"),
            (arch, "with shuffle", f"{row}.channel_shuffle"),
        ),
        strict=True,
    ):
        masks = reach(network, UNIT, UNIT)
        steps = (f"{row}.compress.activation", middle, f"{row}.add")
        for axes, name in zip(line, steps, strict=True):
            _matrix(axes, masks[name])
        line[0].set_ylabel(f"{label}\n\noutput channel")
    titles = ("1. grouped 1x1", "2. shuffle, or not", "3. grouped 1x1, residual")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    for axes in grid[1]:
        axes.set_xlabel("input channel")
    return figure


def _matrix(axes: Axes, mask: Mask) -> None:
    outputs, inputs = mask.shape
    group = np.arange(inputs) * 3 // inputs + 1
    colors = ListedColormap(["#F4F4F4", BLUE, ORANGE, VERMILION])
    axes.imshow(mask * group, cmap=colors, vmin=0, vmax=3, aspect="auto", interpolation="none")
    for edge in (1, 2):
        axes.axvline(edge * inputs / 3 - 0.5, color="white", linewidth=0.8)
    axes.set_xticks([0, inputs // 3, 2 * inputs // 3, inputs - 1])
    axes.set_yticks([0, outputs - 1], ["1", str(outputs)])
    axes.set_xticklabels(["1", str(inputs // 3), str(2 * inputs // 3), str(inputs)])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(GREY)


if __name__ == "__main__":
    show(connected, counted)

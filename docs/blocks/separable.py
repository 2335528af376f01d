"""What a depthwise separable convolution saves: one layer, and a whole network.

python -m docs.blocks.separable
"""

from __future__ import annotations

from collections import Counter

from matplotlib.figure import Figure

from docs.blocks.plain_table import plain_table
from docs.blocks.published import V1, V1_FULL_CONV
from docs.blocks.show import show
from docs.blocks.style import BLUE, GREEN, GREY, INK, VERMILION
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.rows import Conv, PoolLinear
from mobilette.counting.cost import LayerCost, cost

KERNEL, CHANNELS, OUTPUTS, SIZE = 3, 64, 128, 112


def convolutions(*convs: Conv, channels: int, size: int) -> tuple[LayerCost, ...]:
    """Return what convolutions one after the other cost on a map of ``size`` x ``size``."""
    stem, *rows = convs
    arch = Arch(
        name="convolutions",
        resolution=size,
        in_channels=channels,
        stem=stem,
        rows=tuple(rows),
        head=PoolLinear(classes=1),
    )
    return cost(arch).layers[: len(convs)]


def standard(kernel: int, channels: int, outputs: int, size: int) -> LayerCost:
    """Return the cost of an ordinary convolution."""
    conv = Conv(channels=outputs, kernel=kernel, activation="none", norm="none")
    return convolutions(conv, channels=channels, size=size)[0]


def separable(kernel: int, channels: int, outputs: int, size: int) -> tuple[LayerCost, ...]:
    """Return the costs of the depthwise and of the pointwise convolution that replace it."""
    return convolutions(
        Conv(channels=channels, kernel=kernel, groups=channels, activation="none", norm="none"),
        Conv(channels=outputs, activation="none", norm="none"),
        channels=channels,
        size=size,
    )


def ratio(kernel: int, outputs: int) -> float:
    """Return the mult-adds of the separable convolution as a part of the standard one's."""
    parts = separable(kernel, CHANNELS, outputs, SIZE)
    return sum(part.madds for part in parts) / standard(kernel, CHANNELS, outputs, SIZE).madds


def one_layer() -> str:
    """Return the worked example as a table."""
    full = standard(KERNEL, CHANNELS, OUTPUTS, SIZE)
    depthwise, pointwise = separable(KERNEL, CHANNELS, OUTPUTS, SIZE)
    madds, params = depthwise.madds + pointwise.madds, depthwise.params + pointwise.params
    table = plain_table(
        ("", "mult-adds", "parameters"),
        [
            ("standard", f"{full.madds:,}", f"{full.params:,}"),
            ("depthwise", f"{depthwise.madds:,}", f"{depthwise.params:,}"),
            ("pointwise", f"{pointwise.madds:,}", f"{pointwise.params:,}"),
            ("depthwise separable", f"{madds:,}", f"{params:,}"),
        ],
    )
    formula = 1 / OUTPUTS + 1 / KERNEL**2
    return (
        f"kernel {KERNEL}, {CHANNELS} -> {OUTPUTS} channels, {SIZE}x{SIZE}\n{table}\n"
        f"ratio {madds / full.madds:.4f} = 1/{OUTPUTS} + 1/{KERNEL}^2 = {formula:.4f}"
    )


def whole_network() -> str:
    """Return MobileNet V1 with either kind of convolution, and where its mult-adds are."""
    full, separated = (cost(get_arch(p.name)) for p in (V1_FULL_CONV, V1))
    table = plain_table(
        ("", "mult-adds", "parameters", "int8 peak activations", "top-1 (paper)"),
        [
            (
                c.name,
                f"{c.madds:,}",
                f"{c.params:,}",
                f"{c.peak_activation_bytes.int8:,}",
                f"{p.top1}%",
            )
            for c, p in ((full, V1_FULL_CONV), (separated, V1))
        ],
    )
    kinds: Counter[str] = Counter()
    for layer in separated.layers:
        kinds[_kind(layer)] += layer.madds
    shares = ", ".join(f"{name} {kinds[name] / separated.madds:.1%}" for name in KINDS)
    return (
        f"{table}\n{full.madds / separated.madds:.1f} times fewer mult-adds, "
        f"{full.params / separated.params:.1f} times fewer parameters, "
        f"{V1_FULL_CONV.top1 - V1.top1:.1f} points of top-1\n"
        f"where mobilenet_v1's mult-adds are: {shares}"
    )


KINDS = ("1x1 convolutions", "depthwise", "stem", "classifier")


def _kind(layer: LayerCost) -> str:
    if layer.name.startswith("stem"):
        return "stem"
    if layer.kind == "linear":
        return "classifier"
    return "depthwise" if "depthwise" in layer.kind else "1x1 convolutions"


def draw() -> Figure:
    """Draw the ratio over the output channels: counted points on the line of the formula."""
    figure = Figure(figsize=(6.4, 3.1), layout="constrained")
    axes = figure.subplots()
    counted = [2**power for power in range(3, 11)]
    for kernel, color in ((3, BLUE), (5, VERMILION), (7, GREEN)):
        line = [1 / n + 1 / kernel**2 for n in counted]
        axes.plot(counted, line, color=color)
        axes.plot(counted, [ratio(kernel, n) for n in counted], "o", color=color, markersize=3.5)
        axes.axhline(1 / kernel**2, color=color, linewidth=0.7, linestyle=(0, (2, 3)))
        axes.text(1180, line[-1], f"K = {kernel}, towards 1/{kernel**2}", color=color, va="center")
    axes.set_xscale("log", base=2)
    axes.set_xlim(7.2, 1100)
    axes.set_xticks(counted, [f"{n:,}" for n in counted])
    axes.set_ylim(0, 0.25)
    axes.set_yticks([0, 0.05, 0.1, 0.15, 0.2, 0.25], ["0", "5%", "10%", "15%", "20%", "25%"])
    axes.set_xlabel("output channels N")
    axes.set_ylabel("mult-adds, separable ÷ standard")
    here = ratio(KERNEL, OUTPUTS)
    axes.annotate(
        f"the example: {here:.4f}",
        (OUTPUTS, here),
        (OUTPUTS * 1.15, 0.185),
        color=INK,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkB": 4},
    )
    return figure


if __name__ == "__main__":
    show(one_layer, whole_network)

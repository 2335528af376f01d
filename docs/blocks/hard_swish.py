"""What hard-swish is for: swish without the exponential.

python -m docs.blocks.hard_swish
"""

from __future__ import annotations

from collections import Counter
from math import prod

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from docs.blocks.plain_table import plain_table
from docs.blocks.published import HARD_SWISH
from docs.blocks.show import show
from docs.blocks.style import BLUE, GREY, INK, VERMILION
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ActivationLayer

Array = npt.NDArray[np.float64]
RANGE = np.linspace(-6, 6, 120_001)


def swish(x: Array) -> Array:
    """Return x times its logistic sigmoid (Ramachandran et al. 2017, arXiv 1710.05941)."""
    return np.asarray(x / (1 + np.exp(-x)))


def hard_swish(x: Array) -> Array:
    """Return x times ReLU6(x + 3) / 6 (Howard et al. 2019, arXiv 1905.02244)."""
    return np.asarray(x * relu6(x + 3) / 6)


def relu6(x: Array) -> Array:
    """Return x cut to 0 to 6."""
    return np.asarray(np.clip(x, 0, 6))


def distances() -> str:
    """Return how far hard-swish and ReLU6 are from swish, as a table."""
    rows = []
    for name, function in (("hard-swish", hard_swish), ("ReLU6", relu6)):
        gap = np.abs(function(RANGE) - swish(RANGE))
        rows.append(
            (
                name,
                f"{gap.max():.3f}",
                f"{abs(RANGE[gap.argmax()]):.2f}",
                f"{gap.mean():.3f}",
                f"{function(RANGE).min():.3f}",
            )
        )
    header = ("", "largest distance to swish", "at |x|", "mean, -6 to 6", "lowest value")
    return plain_table(header, rows)


def places() -> str:
    """Return how many activations of V3-Large are of each kind, and how many values they touch."""
    kinds: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for layer in layers(get_arch("mobilenet_v3_large")):
        if isinstance(layer, ActivationLayer):
            kinds[layer.function] += 1
            values[layer.function] += prod(layer.shape)
    total = values.total()
    rows = [
        (name.replace("_", "-"), str(kinds[name]), f"{n:,}", f"{n / total:.1%}")
        for name, n in values.most_common()
    ]
    return plain_table(("mobilenet_v3_large", "layers", "values", "share"), rows)


def reported() -> str:
    """Return the paper's ablation as a table."""
    rows = [
        (place, f"{top1}%", f"{fused} ms", f"{plain} ms")
        for place, (top1, fused, plain) in HARD_SWISH.items()
    ]
    header = ("published: hard-swish", "top-1", "Pixel 1", "not optimised")
    return plain_table(header, rows)


def draw() -> Figure:
    """Draw the three functions, and how far two of them are from the third."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    x = RANGE[::100]
    left.axhline(0, color=GREY, linewidth=0.5)
    left.plot(x, relu6(x), color=VERMILION, linewidth=1.2)
    left.plot(x, swish(x), color=INK, linewidth=3, alpha=0.35)
    left.plot(x, hard_swish(x), color=BLUE, linewidth=1.4)
    left.text(-3.8, 3.4, "ReLU6", color=VERMILION)
    left.text(-3.8, 2.8, "swish (wide, grey)", color="#777777")
    left.text(-3.8, 2.2, "hard-swish", color=BLUE)
    left.set_xlim(-4, 4)
    left.set_ylim(-0.6, 4)
    left.set_title("the functions", loc="left")
    left.set_xlabel("x")
    right.axhline(0, color=INK, linewidth=3, alpha=0.35)
    right.plot(x, relu6(x) - swish(x), color=VERMILION, linewidth=1.2)
    right.plot(x, hard_swish(x) - swish(x), color=BLUE, linewidth=1.4)
    right.text(2.5, 0.225, "ReLU6", color=VERMILION)
    right.text(3.25, 0.15, "hard-swish", color=BLUE)
    right.set_ylim(-0.16, 0.31)
    right.set_xlim(-6, 6)
    right.set_title("difference from swish", loc="left")
    right.set_xlabel("x")
    return figure


if __name__ == "__main__":
    show(distances, places, reported)

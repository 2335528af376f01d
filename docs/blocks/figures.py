"""Draw the figures of docs/why_these_blocks.md.

python -m docs.blocks.figures [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from matplotlib.figure import Figure

from docs.blocks import devices, hard_swish, relu, separable, shuffle
from docs.blocks.style import write

FOLDER = Path(__file__).resolve().parents[1] / "figures"
FIGURES: Mapping[str, Callable[[], Figure]] = MappingProxyType(
    {
        "separable": separable.draw,
        "relu": relu.draw,
        "hard_swish": hard_swish.draw,
        "shuffle": shuffle.draw,
        "latency": devices.draw,
    }
)


def main(folder: Path) -> None:
    """Write every figure as an SVG into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        write(draw, folder / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)

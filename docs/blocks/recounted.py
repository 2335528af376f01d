"""Why some re-implementations of MobileNet V2 have 3,505,960 parameters.

python -m docs.blocks.recounted
"""

from __future__ import annotations

from dataclasses import replace

from docs.blocks.plain_table import plain_table
from docs.blocks.show import show
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.families.mobilenet_v2 import bottleneck
from mobilette.counting.cost import cost

FIRST, OUT = 32, 16


def with_expansion() -> Arch:
    """Return V2 whose first block has the 1x1 convolution that expands by 1."""
    arch = get_arch("mobilenet_v2")
    block = bottleneck(FIRST, FIRST, OUT, stride=1, expand_always=True)
    return replace(arch, rows=(block, *arch.rows[1:]))


def counted() -> str:
    """Return both networks, and the layers that make the difference."""
    networks = {"mobilenet_v2": get_arch("mobilenet_v2"), "with the expansion": with_expansion()}
    costs = {name: cost(arch) for name, arch in networks.items()}
    rows = [(name, f"{c.params:,}", f"{c.madds:,}") for name, c in costs.items()]
    usual, more = costs.values()
    known = {layer.name for layer in usual.layers}
    added = [layer for layer in more.layers if layer.name not in known]
    rows += [(f"  {layer.name}", f"{layer.params:,}", f"{layer.madds:,}") for layer in added]
    difference = (more.params - usual.params, more.madds - usual.madds)
    rows.append(("difference", f"{difference[0]:,}", f"{difference[1]:,}"))
    return plain_table(("", "parameters", "mult-adds"), rows)


if __name__ == "__main__":
    show(counted)

"""What MobileNet V3's redesigned ends save: the last stage, and the first convolution.

python -m docs.blocks.tail
"""

from __future__ import annotations

from dataclasses import replace

from docs.blocks.plain_table import plain_table
from docs.blocks.published import TAIL
from docs.blocks.show import show
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.families.mobilenet_v2 import bottleneck
from mobilette.arch.rows import Block, Conv, PoolLinear
from mobilette.counting.cost import cost

CHANNELS, EXPANDED, PROJECTED, FEATURES, STEM = 160, 960, 320, 1280, 32


def versions() -> dict[str, Arch]:
    """Return V3-Large with the last stage of V2, and after each change (V3 paper, Figure 5)."""
    published = get_arch("mobilenet_v3_large")
    assert isinstance(published.head, PoolLinear)
    last = bottleneck(CHANNELS, EXPANDED, PROJECTED, stride=1, activation="hard_swish")
    features = Conv(channels=FEATURES, activation="hard_swish")
    blocks = published.rows[:-1]
    return {
        "as V2 ends": replace(
            published,
            rows=(*blocks, last, features),
            head=replace(published.head, hidden=()),
        ),
        "1x1 to 1,280 after the pool": replace(published, rows=(*blocks, last)),
        "no 3x3, no projection": published,
    }


def last_stage() -> str:
    """Return what each change of the last stage saves, as a table."""
    rows = []
    before = None
    for name, arch in versions().items():
        c = cost(arch)
        saved = "" if before is None else f"{before - c.madds:,}"
        rows.append((name, f"{c.madds:,}", f"{c.params:,}", saved))
        before = c.madds
    counted = [cost(arch).madds for arch in versions().values()]
    table = plain_table(("mobilenet_v3_large", "mult-adds", "parameters", "saved"), rows)
    milliseconds, madds = TAIL["last stage"]
    return (
        f"{table}\nsaved {counted[0] - counted[-1]:,}; the paper says {madds} million, and "
        f"{milliseconds} ms"
    )


def stem() -> str:
    """Return what a first convolution of 16 filters saves, as a table."""
    published = get_arch("mobilenet_v3_large")
    assert isinstance(published.stem, Conv)
    block = published.rows[0]
    assert isinstance(block, Block)
    (depthwise, project), _ = block.paths
    assert isinstance(depthwise.operation, Conv)
    wide = replace(depthwise, operation=replace(depthwise.operation, channels=STEM, groups=STEM))
    wider = replace(
        published,
        stem=replace(published.stem, channels=STEM),
        rows=(Block(entry=(wide, project)), *published.rows[1:]),
    )
    rows = []
    for name, arch in ((f"{STEM} filters", wider), ("16 filters", published)):
        c = cost(arch)
        peak = c.peak_activation_bytes.int8
        rows.append((name, f"{c.madds:,}", f"{c.params:,}", f"{peak:,}"))
    saved = cost(wider).madds - cost(published).madds
    milliseconds, madds = TAIL["stem"]
    table = plain_table(
        ("mobilenet_v3_large", "mult-adds", "parameters", "int8 peak activations"), rows
    )
    return f"{table}\nsaved {saved:,}; the paper says {madds} million, and {milliseconds} ms"


if __name__ == "__main__":
    show(last_stage, stem)

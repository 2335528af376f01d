"""What squeeze-and-excitation costs: MobileNet V3 with it and without.

python -m docs.blocks.squeeze_excite
"""

from __future__ import annotations

from docs.blocks.plain_table import plain_table
from docs.blocks.published import SQUEEZE_EXCITE, SQUEEZE_EXCITE_SPEED
from docs.blocks.show import show
from docs.blocks.without import without
from mobilette.arch.catalogue import get_arch
from mobilette.arch.rows import SqueezeExcite
from mobilette.counting.cost import Cost, cost


def with_and_without(name: str) -> tuple[Cost, Cost]:
    """Return what the network costs as published and without squeeze-and-excitation."""
    arch = get_arch(name)
    return cost(arch), cost(without(arch, SqueezeExcite))


def counted() -> str:
    """Return the costs of both networks of V3 with and without as a table."""
    rows = []
    for name in ("mobilenet_v3_large", "mobilenet_v3_small"):
        published, plain = with_and_without(name)
        for label, c in ((name, published), ("  without", plain)):
            numbers = (c.params, c.madds, c.peak_activation_bytes.int8)
            rows.append((label, *(f"{number:,}" for number in numbers)))
        shares = (1 - plain.params / published.params, 1 - plain.madds / published.madds)
        rows.append(("  share of it", *(f"{share:.1%}" for share in shares), ""))
    return plain_table(("", "parameters", "mult-adds", "int8 peak activations"), rows)


def reported() -> str:
    """Return what two papers report for networks with and without."""
    rows = [
        (name, f"{before}M -> {after}M", f"{top1}% -> {better}%", f"{better - top1:+.1f} points")
        for name, ((before, top1), (after, better)) in SQUEEZE_EXCITE.items()
    ]
    table = plain_table(("published", "mult-adds", "top-1", ""), rows)
    plain, squeezed = SQUEEZE_EXCITE_SPEED
    (before, _), (after, _) = SQUEEZE_EXCITE["ShuffleNet V2 2x"]
    return (
        f"{table}\nShuffleNet V2 2x on a Snapdragon 810: {plain} -> {squeezed} images a second, "
        f"{plain / squeezed - 1:.0%} more time for {after / before - 1:.0%} more mult-adds"
    )


if __name__ == "__main__":
    show(counted, reported)

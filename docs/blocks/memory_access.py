"""ShuffleNet V2's four rules, with the memory access that they are about, counted.

python -m docs.blocks.memory_access

Memory access is counted in values, as in the paper: a layer reads its input and its weights once
and writes its output once.
"""

from __future__ import annotations

from math import prod, sqrt

from docs.blocks.plain_table import plain_table
from docs.blocks.show import show
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    ScaleLayer,
    ShuffleLayer,
    SliceLayer,
)
from mobilette.counting.cost import cost

POINTWISE = (
    ("mobilenet_v1", "rows.6.pointwise.conv"),
    ("shufflenet_v2", "rows.2.conv1.conv"),
    ("mobilenet_v2", "rows.2.expand.conv"),
    ("mobilenet_v2", "rows.8.expand.conv"),
    ("mobilenet_v3_small", "rows.5.expand.conv"),
)
NETWORKS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2", "resnet50")
FRAGMENTED = ("mobilenet_v1", "shufflenet_v2", "mobilenet_v2", "squeezenet1_1", "ghostnet")
ELEMENT_WISE = (ActivationLayer, AddLayer, ScaleLayer)
MOVING = (ConcatLayer, ShuffleLayer, SliceLayer)


def access(layer: AnyLayer, inputs: list[int]) -> int:
    """Return the values that ``layer``, with inputs of these sizes, reads and writes."""
    weights = 0
    if isinstance(layer, ConvLayer):
        weights = layer.shape[0] * layer.in_channels // layer.groups * layer.kernel**2
    return sum(inputs) + weights + prod(layer.shape)


def accesses(arch: Arch) -> dict[str, int]:
    """Return the memory access of every layer, by name."""
    assert isinstance(arch.resolution, int)
    sizes = {INPUT: arch.in_channels * arch.resolution**2}
    counted = {}
    for layer in layers(arch):
        counted[layer.name] = access(layer, [sizes[name] for name in layer.inputs])
        sizes[layer.name] = prod(layer.shape)
    return counted


def equal_widths() -> str:
    """Return rule 1: a 1x1 convolution moves the least if it has as many inputs as outputs."""
    rows = []
    for network, name in POINTWISE:
        arch = get_arch(network)
        conv = next(layer for layer in layers(arch) if layer.name == name)
        assert isinstance(conv, ConvLayer)
        before, after, pixels = conv.in_channels, conv.shape[0], prod(conv.shape[1:])
        moved, madds = accesses(arch)[name], pixels * before * after
        least = 2 * sqrt(pixels * madds) + madds / pixels
        ratio = max(before, after) / min(before, after)
        rows.append(
            (
                f"{network} {name.removesuffix('.conv')}",
                f"{before} -> {after}",
                f"1:{ratio:g}",
                f"{madds:,}",
                f"{moved:,}",
                f"{least:,.0f}",
                f"{moved / least:.2f}",
            )
        )
    header = ("1x1 convolution", "channels", "", "mult-adds", "moved", "least", "times")
    return plain_table(header, rows)


def groups() -> str:
    """Return rule 2: groups move more for the same mult-adds."""
    rows = []
    for count in (1, 2, 3, 4, 8):
        arch = get_arch(f"shufflenet_v1_g{count}")
        counted = accesses(arch)
        moved = sum(
            counted[layer.name]
            for layer in layers(arch)
            if isinstance(layer, ConvLayer) and layer.kernel == 1
        )
        madds = cost(arch).madds
        rows.append((arch.name, f"{madds:,}", f"{moved:,}", f"{madds / moved:.1f}"))
    header = ("", "mult-adds", "moved by 1x1 convolutions", "mult-adds for one value")
    return plain_table(header, rows)


def fragments() -> str:
    """Return rule 3: many small operations, instead of a few large ones."""
    rows = []
    for name in FRAGMENTED:
        arch = get_arch(name)
        convs = [layer for layer in layers(arch) if isinstance(layer, ConvLayer)]
        madds = cost(arch).madds
        rows.append((name, f"{madds:,}", str(len(convs)), f"{madds / len(convs):,.0f}"))
    return plain_table(("", "mult-adds", "convolutions", "mult-adds of one"), rows)


def element_wise() -> str:
    """Return rule 4: operations without mult-adds move much."""
    rows = []
    for name in NETWORKS:
        arch = get_arch(name)
        counted = accesses(arch)
        kinds = {
            kind: sum(counted[layer.name] for layer in layers(arch) if isinstance(layer, of))
            for kind, of in (
                ("convolutions", ConvLayer),
                ("element-wise", ELEMENT_WISE),
                ("moving", MOVING),
            )
        }
        share = (kinds["element-wise"] + kinds["moving"]) / sum(kinds.values())
        rows.append((name, *(f"{moved:,}" for moved in kinds.values()), f"{share:.0%}"))
    header = ("values moved by", "convolutions", "ReLU, add, scale", "concat, shuffle, split", "")
    return plain_table(header, rows)


if __name__ == "__main__":
    show(equal_widths, groups, fragments, element_wise)

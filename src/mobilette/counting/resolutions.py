"""The cost of one network at many resolutions at once.

Only the sides of the maps depend on the resolution, so one graph is enough: its layers say how they
change a side, `mobilette.counting.cost` what a layer costs per pixel and which tensors are alive,
and numpy does the arithmetic for all resolutions together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    AdaptivePoolLayer,
    AnyLayer,
    ConvLayer,
    PoolLayer,
    SubsampleLayer,
    output_side,
)
from mobilette.counting.cost import (
    Bytes,
    deployed_bytes,
    layer_madds,
    layer_params,
    peak_activations,
)

Sides = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CostByResolution:
    """What a network costs for one image, as `mobilette.counting.cost.Cost` counts it.

    ``madds`` and ``peak_activations`` (elements; 4 bytes each in fp32, 1 in int8) have one number
    per resolution.
    """

    params: int
    size_bytes: Bytes
    madds: NDArray[np.int64]
    peak_activations: NDArray[np.int64]


def cost_by_resolution(arch: Arch, resolutions: Sequence[int]) -> CostByResolution:
    """Return what `cost` returns for ``arch.with_resolution(r)`` for each of ``resolutions``.

    Raises:
        InputError: a window does not fit into the maps at one of the resolutions.
    """
    graph = layers(arch)
    pixels = _pixels(graph, tuple(resolutions))
    elements = {INPUT: arch.in_channels * pixels[INPUT]}
    madds = np.zeros(len(resolutions), dtype=np.int64)
    for layer in graph:
        channels, *sides = layer.shape
        area = pixels[layer.name] if sides else np.ones_like(madds)
        elements[layer.name] = channels * area
        if counted := layer_madds(layer):
            madds += counted // prod(sides) * area
    return CostByResolution(
        params=sum(layer_params(layer) for layer in graph),
        size_bytes=deployed_bytes(graph),
        madds=madds,
        peak_activations=peak_activations(graph, elements, np.maximum),
    )


def _pixels(graph: Sequence[AnyLayer], resolutions: Sides) -> dict[str, NDArray[np.int64]]:
    """Return the number of pixels of each layer's output, and the input, at each resolution."""
    sides = {INPUT: resolutions}
    # Networks have hundreds of layers but few map sizes: each change of size is computed once.
    changed: dict[tuple[object, ...], Sides] = {}
    for layer in graph:
        before = sides[layer.inputs[0]]
        change = (before, *_window(layer))
        if change not in changed:
            changed[change] = tuple(output_side(layer, side) for side in before)
        sides[layer.name] = changed[change]
    squares = {each: np.array(each, dtype=np.int64) ** 2 for each in set(sides.values())}
    return {name: squares[each] for name, each in sides.items()}


def _window(layer: AnyLayer) -> tuple[object, ...]:
    """Return what two layers must share to change a side alike."""
    match layer:
        case ConvLayer():
            return (layer.kernel, layer.stride, layer.padding)
        case PoolLayer():
            return (layer.kernel, layer.stride, layer.padding, layer.ceil_mode)
        case SubsampleLayer():
            return ("subsample", layer.stride)
        case AdaptivePoolLayer():
            return ("grid", layer.shape[1])
        case _:
            return ()

"""The cost of a network at many resolutions, from one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arch.editing import merged
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
from mobilette.arch.scale import Resolution, size_of
from mobilette.counting.cost import (
    Bytes,
    deployed_bytes,
    layer_madds,
    layer_params,
    peak_activations,
)


@dataclass(frozen=True, kw_only=True)
class CostByResolution:
    """The cost of a network; arrays have one number per resolution.

    ``peak_activations`` counts elements: 4 bytes each in fp32, 1 in int8.
    """

    params: int
    size_bytes: Bytes
    madds: NDArray[np.int64]
    peak_activations: NDArray[np.int64]


def cost_by_resolution(arch: Arch, resolutions: Sequence[Resolution]) -> CostByResolution:
    """Return the cost of ``arch.with_resolution(r)`` for each of ``resolutions``.

    Only the sides of maps depend on the resolution, so one graph is enough.

    Raises:
        InputError: a window does not fit into the maps at one of the resolutions.
    """
    graph, deployed = layers(arch), layers(merged(arch))
    pixels = _pixels(graph, resolutions)
    madds = np.zeros(len(resolutions), dtype=np.int64)
    for layer in graph:
        _, *sides = layer.shape
        if counted := layer_madds(layer):
            madds += counted // prod(sides) * (pixels[layer.name] if sides else 1)
    if deployed != graph:
        pixels = _pixels(deployed, resolutions)
    elements = {INPUT: arch.in_channels * pixels[INPUT]}
    for layer in deployed:
        channels, *sides = layer.shape
        elements[layer.name] = channels * (pixels[layer.name] if sides else np.ones_like(madds))
    return CostByResolution(
        params=sum(layer_params(layer) for layer in graph),
        size_bytes=deployed_bytes(deployed),
        madds=madds,
        peak_activations=peak_activations(deployed, elements, np.maximum),
    )


def _pixels(
    graph: Sequence[AnyLayer], resolutions: Sequence[Resolution]
) -> dict[str, NDArray[np.int64]]:
    """Return the number of pixels of each layer's output, and the input, at each resolution."""
    heights, widths = zip(*map(size_of, resolutions), strict=True)
    sides: dict[str, tuple[int, ...]] = {INPUT: heights + widths}
    # Hundreds of layers, but few different changes of size: each is computed once.
    changed: dict[tuple[object, ...], tuple[int, ...]] = {}
    for layer in graph:
        before = sides[layer.inputs[0]]
        change = (before, *_window(layer))
        if change not in changed:
            changed[change] = tuple(output_side(layer, side) for side in before)
        sides[layer.name] = changed[change]
    pixels = {
        each: np.array(each, dtype=np.int64).reshape(2, -1).prod(axis=0)
        for each in set(sides.values())
    }
    return {name: pixels[each] for name, each in sides.items()}


def _window(layer: AnyLayer) -> tuple[object, ...]:
    """Return the properties of a layer by which it changes a side."""
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

"""A `Graph` as a file of some network would give it, with random weights, for tests."""

from __future__ import annotations

import numpy as np

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
)
from mobilette.formats.graph import (
    NO_PADDING,
    ActivationNode,
    ConvNode,
    Graph,
    JoinNode,
    Node,
    NormNode,
    Padding,
    PoolNode,
    Weights,
)


def graph_of(arch: Arch) -> Graph:
    """Return ``arch`` as a graph; windows that hang over the edge (``ceil_mode``) do not count."""
    random = np.random.default_rng(0)
    nodes: dict[str, Node] = {}
    source = {INPUT: INPUT}
    side = {INPUT: arch.resolution}
    for layer in layers(arch):
        inputs = tuple(source[name] for name in layer.inputs)
        side[layer.name] = layer.shape[1] if len(layer.shape) == 3 else 1
        same = isinstance(layer, AdaptivePoolLayer) and side[layer.inputs[0]] == side[layer.name]
        if isinstance(layer, FlattenLayer) or same:
            source[layer.name] = inputs[0]
            continue
        nodes[layer.name] = _node(layer, inputs, arch.norm_epsilon, random)
        source[layer.name] = layer.name
    return Graph(
        where="some.file",
        nodes=tuple(nodes.values()),
        input=INPUT,
        output=source[layers(arch)[-1].name],
        shape=(arch.in_channels, arch.resolution, arch.resolution),
    )


def _node(
    layer: AnyLayer, inputs: tuple[str, ...], epsilon: float, random: np.random.Generator
) -> Node:
    name, channels = layer.name, layer.shape[0]

    def noise(*shape: int, mean: float = 0.0, deviation: float = 0.3) -> Weights:
        return random.normal(mean, deviation, shape).astype(np.float32)

    match layer:
        case ConvLayer():
            each = layer.in_channels // layer.groups
            shape = (channels, each, layer.kernel, layer.kernel)
            around: Padding = ((layer.kernel - 1) // 2,) * 4
            paddings: dict[str, Padding] = {
                "tf_same": "same",
                "symmetric": around,
                "valid": NO_PADDING,
            }
            return ConvNode(
                name=name,
                inputs=inputs,
                weight=noise(*shape, deviation=(2 / (each * layer.kernel**2)) ** 0.5),
                bias=noise(channels) if layer.bias else None,
                stride=layer.stride,
                groups=layer.groups,
                padding=paddings[layer.padding],
            )
        case LinearLayer():
            weight = noise(channels, layer.in_features, 1, 1, deviation=layer.in_features**-0.5)
            return ConvNode(name=name, inputs=inputs, weight=weight, bias=noise(channels))
        case NormLayer():
            return NormNode(
                name=name,
                inputs=inputs,
                scale=noise(channels, mean=1.0),
                shift=noise(channels),
                mean=noise(channels),
                variance=np.abs(noise(channels, mean=1.0)),
                epsilon=epsilon,
            )
        case ActivationLayer():
            return ActivationNode(name=name, inputs=inputs, function=layer.function)
        case PoolLayer():
            return PoolNode(
                name=name,
                inputs=inputs,
                function=layer.function,
                kernel=layer.kernel,
                stride=layer.stride,
                padding=(layer.padding,) * 4,
            )
        case AdaptivePoolLayer():
            assert layer.shape[1] == 1
            return PoolNode(name=name, inputs=inputs, function="average")
        case AddLayer():
            return JoinNode(name=name, inputs=inputs, function="add")
        case ConcatLayer():
            return JoinNode(name=name, inputs=inputs, function="concat")
        case ScaleLayer():
            return JoinNode(name=name, inputs=inputs, function="scale")
        case _:
            raise AssertionError(layer)

"""The head that a file's graph has: hidden layers, a flattened map, or no classifier at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import AdaptivePoolLayer
from mobilette.arch.rows import Activation, PoolLinear
from mobilette.formats.graph import ActivationNode, ConvNode, Graph, Node, NormNode, PoolNode

NO_CLASSIFIER = "no classifier in it: a start for 'mobilette train --from'"
TOP = "the classifier that is not there"


def classifier_layers(graph: Graph) -> list[tuple[ConvNode, Activation]]:
    """Return the layers from the pooled or flattened map to the logits; none without a top."""
    nodes = {node.name: node for node in graph.nodes}
    found: list[tuple[ConvNode, Activation]] = []
    activation: Activation = "none"
    node = nodes.get(graph.output)
    while isinstance(node, ConvNode | ActivationNode | NormNode):
        if isinstance(node, ActivationNode):
            activation = node.function
        elif isinstance(node, ConvNode):
            if node.weight.shape[2:] != (1, 1) or node.groups > 1:
                break
            found.insert(0, (node, activation))
            activation = "none"
        node = nodes.get(node.inputs[0])
    if isinstance(node, PoolNode) and node.function == "average":
        return found
    # Nothing is averaged: what is a linear layer there reads a flattened map.
    first = next((i for i, (conv, _) in enumerate(found) if conv.linear), len(found))
    return found[first:]


def with_classifier(graph: Graph) -> Graph:
    """Return ``graph``, which has no top, with a pool if it has none, and one class of zeros."""
    nodes = {node.name: node for node in graph.nodes}
    channels = next(
        (len(node.weight) for node in reversed(graph.nodes) if isinstance(node, ConvNode)), 0
    )
    added: list[Node] = []
    last = graph.output
    if not isinstance(nodes.get(last), PoolNode):
        added.append(PoolNode(name=f"{TOP}/pool", inputs=(last,), function="average"))
        last = added[0].name
    weight = np.zeros((1, channels, 1, 1), np.float32)
    added.append(ConvNode(name=TOP, inputs=(last,), weight=weight, linear=True))
    return replace(graph, nodes=(*graph.nodes, *added), output=TOP)


def with_head_of(graph: Graph, arch: Arch) -> Arch:
    """Return ``arch`` with the hidden layers and the flattened grid that ``graph`` has."""
    found = classifier_layers(graph)
    if not isinstance(arch.head, PoolLinear) or not found:
        return arch
    hidden = tuple(len(conv.weight) for conv, _ in found[:-1])
    activation = found[0][1] if hidden else arch.head.activation
    side = _flattened_side(arch, features=found[0][0].weight.shape[1])
    head = replace(arch.head, hidden=hidden, activation=activation, pool=side)
    return replace(arch, head=head)


def _flattened_side(arch: Arch, *, features: int) -> int:
    """Return the side of the map that ``features`` are, flattened; 1 where it is averaged."""
    assert isinstance(arch.head, PoolLinear)
    graph = layers(replace(arch, head=replace(arch.head, pool=1)))
    pool = next(layer for layer in graph if isinstance(layer, AdaptivePoolLayer))
    channels, side, _ = next(layer.shape for layer in graph if layer.name == pool.inputs[0])
    return next((s for s in (arch.head.pool, side) if features == s * s * channels), 1)

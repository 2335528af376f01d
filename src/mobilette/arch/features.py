"""A network's features: what its classifier reads."""

from __future__ import annotations

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import Layer


def features_layer(arch: Arch) -> Layer:
    """Return the layer whose output is the features: what its classifier reads.

    That is after the global pool and any hidden layers with their activations, as timm's
    ``forward_head(x, pre_logits=True)`` and torchvision's networks without their last linear layer
    have it. If the classifier is a convolution (SqueezeNet), it reads a map, and the features
    are the map's averages, one per channel. So the layer's first dimension is their number.

    Raises:
        InputError: the rows do not fit together.
    """
    graph = {layer.name: layer for layer in layers(arch)}
    classifier = graph.get("head.classifier") or graph["head.classifier.conv"]
    return graph[classifier.inputs[0]]

"""The topology of a Keras model (``model_config``), as `Graph`: of Keras 2, Keras 3, TensorFlow.js.

Layers are matched with their weights by name; what they do is in their configuration.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mobilette.arch.rows import Activation
from mobilette.data.preprocess import Colour, Preprocess
from mobilette.errors import InputError
from mobilette.weights.graph import (
    NO_PADDING,
    ActivationNode,
    ConvNode,
    Graph,
    JoinNode,
    Node,
    Padding,
    PadNode,
    PoolNode,
)
from mobilette.weights.keras_layers import INPUT, Layer, read_layers
from mobilette.weights.keras_weights import LayerWeights, RemainingWeights, kernel, norm_node

ACTIVATIONS: Mapping[str, Activation] = {
    "linear": "none",
    "relu": "relu",
    "relu6": "relu6",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
    "hard_sigmoid": "hard_sigmoid",
}
# What a topology that is not Keras' own makes the reader raise.
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# They change no logit: a reshape is looked at, a softmax may only be the end.
PASSED_OVER = ("Dropout", "Flatten", "Reshape", "SpatialDropout2D", "Identity", "InputLayer")


def keras_graph(
    topology: object, weights: Sequence[LayerWeights], *, where: str, version: str
) -> Graph:
    """Return the graph of a Keras model.

    Args:
        topology: the JSON value of ``model_config``.
        weights: of its layers.
        where: the file, for messages.
        version: of the Keras that wrote it; ``hard_sigmoid`` is another function before 3.

    Raises:
        InputError: the topology is damaged or has layers that no network here has.
    """
    try:
        layers, shape, output = read_layers(topology)
        return _Translation(weights, where, version).run(layers, shape, output)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except graphlib.CycleError as error:
        raise InputError(f"{where}: its layers read each other in a circle") from error
    except DAMAGED as error:
        raise InputError(f"{where}: its topology is damaged ({type(error).__name__})") from error


class _Translation:
    def __init__(self, weights: Sequence[LayerWeights], where: str, version: str) -> None:
        self.where = where
        self.is_keras_2 = version.startswith(("1", "2"))
        self.weights = RemainingWeights(weights)
        self.tensors = self.weights.names()
        self.nodes: dict[str, Node] = {}
        self.node_of = {INPUT: INPUT}  # layer to the node that its output is
        self.after_softmax: set[str] = set()
        # relu6(x + 3) / 6 comes in three layers
        self.plus_three: dict[str, str] = {}
        self.capped: dict[str, str] = {}
        self.preprocess: Preprocess | None = None

    def run(self, layers: Mapping[str, Layer], shape: tuple[int, int, int], output: str) -> Graph:
        reads = {name: layer.inputs for name, layer in layers.items()}
        self.channels = shape[0]
        self.first = [name for name, inputs in reads.items() if INPUT in inputs]
        for name in graphlib.TopologicalSorter(reads).static_order():
            if name != INPUT:
                self.layer(layers[name])
        return Graph(
            where=self.where,
            nodes=tuple(self.nodes.values()),
            input=INPUT,
            output=self.node_of[output],
            shape=shape,
            preprocess=self.preprocess,
            tensors=self.tensors,
            unused=self.weights.names(),
        )

    def layer(self, layer: Layer) -> None:
        softmax = self.after_softmax.intersection(layer.inputs)
        if layer.kind in PASSED_OVER:
            _check_reshape(layer)
            self.node_of[layer.name] = self.source(layer)
            self.after_softmax |= {layer.name} if softmax else set()
            return
        if softmax:
            raise InputError(f"layer {layer.name!r} follows a softmax; only the end may be one")
        if layer.kind == "Softmax" or layer.option("activation") == "softmax":
            self.after_softmax.add(layer.name)
        translate = {
            "Conv2D": self.conv,
            "DepthwiseConv2D": self.conv,
            "Dense": self.conv,
            "BatchNormalization": self.norm,
            "Activation": self.activation,
            "ReLU": self.relu,
            "Softmax": self.pass_on,
            "ZeroPadding2D": self.pad,
            "GlobalAveragePooling2D": self.pool,
            "AveragePooling2D": self.pool,
            "MaxPooling2D": self.pool,
            "Add": self.add,
            "Multiply": self.multiply,
            "Concatenate": self.concatenate,
            "Rescaling": self.rescale,
        }.get(layer.kind)
        if translate is None:
            raise InputError(f"layer {layer.name!r} is a {layer.kind}, which no network here has")
        if layer.option("data_format", "channels_last") != "channels_last":
            raise InputError(f"layer {layer.name!r} has channels first; channels_last is read")
        translate(layer)

    def source(self, layer: Layer) -> str:
        (name,) = layer.inputs
        if name not in self.node_of:
            raise InputError(f"layer {layer.name!r} reads {name!r}, which no network here has")
        return self.node_of[name]

    def pass_on(self, layer: Layer) -> None:
        self.node_of[layer.name] = self.source(layer)

    def put(self, layer: Layer, node: Node) -> None:
        if node.name in self.nodes or node.name == INPUT:
            raise InputError(f"two layers are called {node.name!r}")
        self.nodes[node.name] = node
        self.node_of[layer.name] = node.name

    def conv(self, layer: Layer) -> None:
        weight, groups = kernel(layer, self.weights)
        bias = None
        if layer.option("use_bias", True):
            bias = self.weights.take(layer.name, "bias", (len(weight),))
        if layer.size("dilation_rate", 1) != 1:
            raise InputError(f"layer {layer.name!r} has a dilation, which no network here has")
        node = ConvNode(
            name=layer.name,
            inputs=(self.source(layer),),
            weight=np.ascontiguousarray(weight),
            bias=bias,
            stride=layer.size("strides", 1),
            groups=groups,
            padding=_padding(layer),
        )
        self.put(layer, node)
        self.activation(layer)

    def norm(self, layer: Layer) -> None:
        self.put(layer, norm_node(layer, (self.source(layer),), self.weights))

    def activation(self, layer: Layer) -> None:
        """Add the activation that a layer is, or ends in."""
        name = layer.option("activation", "linear")
        known = ACTIVATIONS.get("linear" if name == "softmax" else str(name))
        if known is None or (known == "hard_sigmoid" and self.is_keras_2):
            raise InputError(f"layer {layer.name!r} has activation {name!r}, not one of ours")
        self.activate(layer, known)

    def activate(self, layer: Layer, function: Activation) -> None:
        before = self.node_of.get(layer.name) or self.source(layer)
        self.node_of[layer.name] = before
        if function != "none":
            name = f"{layer.name}/activation"
            self.put(layer, ActivationNode(name=name, inputs=(before,), function=function))

    def relu(self, layer: Layer) -> None:
        cap = layer.option("max_value")
        if (
            layer.option("negative_slope", 0)
            or layer.option("threshold", 0)
            or cap not in (None, 6)
        ):
            raise InputError(f"layer {layer.name!r} is a ReLU with other options than max_value 6")
        if layer.inputs[0] in self.plus_three:
            self.capped[layer.name] = self.plus_three[layer.inputs[0]]
            return
        self.activate(layer, "relu" if cap is None else "relu6")

    def pad(self, layer: Layer) -> None:
        (top, bottom), (left, right) = (
            (side, side) if isinstance(side, int) else tuple(side)
            for side in layer.pair("padding", 0)
        )
        around = (int(top), int(bottom), int(left), int(right))
        if min(around) < 0:
            raise InputError(f"layer {layer.name!r} pads {around} pixels")
        self.put(layer, PadNode(name=layer.name, inputs=(self.source(layer),), padding=around))

    def pool(self, layer: Layer) -> None:
        side, stride = 0, 1
        if layer.kind != "GlobalAveragePooling2D":
            side = layer.size("pool_size", 2)
            stride = side if layer.option("strides") is None else layer.size("strides")
        node = PoolNode(
            name=layer.name,
            inputs=(self.source(layer),),
            function="max" if layer.kind == "MaxPooling2D" else "average",
            kernel=side,
            stride=stride,
            padding=_padding(layer),
        )
        self.put(layer, node)

    def join(self, layer: Layer, function: Literal["add", "concat", "scale"]) -> None:
        inputs = tuple(self.node_of[name] for name in layer.inputs)
        self.put(layer, JoinNode(name=layer.name, inputs=inputs, function=function))

    def add(self, layer: Layer) -> None:
        if layer.numbers:
            if layer.numbers != (3.0,):
                raise InputError(f"layer {layer.name!r} adds {layer.numbers}")
            self.plus_three[layer.name] = self.source(layer)
            return
        self.join(layer, "add")

    def multiply(self, layer: Layer) -> None:
        if layer.numbers:
            (factor,) = layer.numbers
            source = self.capped.get(layer.inputs[0])
            if source is None or abs(factor - 1 / 6) > 1e-6:
                raise InputError(f"layer {layer.name!r} multiplies by {factor:g}")
            node = ActivationNode(name=layer.name, inputs=(source,), function="hard_sigmoid")
            self.put(layer, node)
            return
        first, second = (self.node_of[name] for name in layer.inputs)
        gate = self.nodes.get(second)
        if isinstance(gate, ActivationNode) and gate.inputs == (first,):  # x * hard_sigmoid(x)
            del self.nodes[second]
            swish = ActivationNode(name=layer.name, inputs=(first,), function="hard_swish")
            self.put(layer, swish)
            return
        self.join(layer, "scale")

    def concatenate(self, layer: Layer) -> None:
        if layer.option("axis", -1) not in (-1, 3):
            raise InputError(f"layer {layer.name!r} concatenates something else than channels")
        self.join(layer, "concat")

    def rescale(self, layer: Layer) -> None:
        if self.first != [layer.name]:
            raise InputError(f"layer {layer.name!r} rescales something else than the picture")
        scale, offset = float(layer.option("scale")), float(layer.option("offset", 0.0))
        if not scale > 0:
            raise InputError(f"layer {layer.name!r} rescales by {scale:g}")
        colour: Colour = "grey" if self.channels == 1 else "rgb"
        mean, std = (-offset / scale,) * self.channels, (1 / scale,) * self.channels
        self.preprocess = Preprocess(mean=mean, std=std, colour=colour)
        self.pass_on(layer)


def _padding(layer: Layer) -> Padding:
    padding = layer.option("padding", "valid")
    if padding not in ("same", "valid"):
        raise InputError(f"layer {layer.name!r} has padding {padding!r}")
    return "same" if padding == "same" else NO_PADDING


def _check_reshape(layer: Layer) -> None:
    """Raise `InputError` for a reshape that does more than flatten one pixel."""
    shape = layer.option("target_shape", ())
    if sum(size != 1 for size in shape) > 1:
        raise InputError(f"layer {layer.name!r} reshapes to {shape}")

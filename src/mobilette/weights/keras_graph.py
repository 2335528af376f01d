"""The topology of a Keras model (``model_config``), as `Graph`: of Keras 2, Keras 3, TensorFlow.js.

Layers are matched with their weights by name; what they do is in their configuration.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilette.arch.rows import Activation
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError
from mobilette.weights.graph import (
    ActivationNode,
    ConvNode,
    Graph,
    JoinNode,
    Node,
    NormNode,
    PadNode,
    PoolNode,
    Weights,
)
from mobilette.weights.keras_layers import INPUT, Layer, read_layers

ACTIVATIONS: Mapping[str, Activation] = {
    "linear": "none",
    "relu": "relu",
    "relu6": "relu6",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
    "hard_sigmoid": "hard_sigmoid",
}
# They change no logit: a reshape is looked at, a softmax may only be the end.
PASSED_OVER = ("Dropout", "Flatten", "Reshape", "SpatialDropout2D", "Identity", "InputLayer")


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """The weights of one layer: ``kernel``, ``bias``, ``gamma``, ... by Keras' names."""

    name: str
    parameters: Mapping[str, Weights]


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
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{where}: its topology is damaged ({type(error).__name__})") from error


class _Translation:
    def __init__(self, weights: Sequence[LayerWeights], where: str, version: str) -> None:
        self.where = where
        self.is_keras_2 = version.startswith(("1", "2"))
        self.weights = {layer.name: dict(layer.parameters) for layer in weights}
        self.tensors = tuple(
            f"{layer.name}/{name}" for layer in weights for name in layer.parameters
        )
        self.nodes: dict[str, Node] = {}
        self.node_of = {INPUT: INPUT}  # layer to the node that its output is
        self.after_softmax: set[str] = set()
        # relu6(x + 3) / 6 comes in three layers
        self.plus_three: dict[str, str] = {}
        self.capped: dict[str, str] = {}
        self.preprocess: Preprocess | None = None

    def run(self, layers: Mapping[str, Layer], shape: tuple[int, int, int], output: str) -> Graph:
        reads = {name: layer.inputs for name, layer in layers.items()}
        for name in graphlib.TopologicalSorter(reads).static_order():
            if name != INPUT:
                self.layer(layers[name])
        left = tuple(f"{layer}/{name}" for layer, rest in self.weights.items() for name in rest)
        return Graph(
            where=self.where,
            nodes=tuple(self.nodes.values()),
            input=INPUT,
            output=self.node_of[output],
            shape=shape,
            preprocess=self.preprocess,
            tensors=self.tensors,
            unused=left,
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
        self.nodes[node.name] = node
        self.node_of[layer.name] = node.name

    def take(self, layer: Layer, parameter: str, shape: tuple[int | None, ...]) -> Weights:
        """Return a weight and note that it is used."""
        array = self.weights.get(layer.name, {}).pop(parameter, None)
        if array is None:
            raise InputError(f"layer {layer.name!r} has no {parameter} in the file")
        fits = len(shape) == array.ndim and all(
            wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            raise InputError(f"layer {layer.name!r}: its {parameter} is of shape {array.shape}")
        return array

    def conv(self, layer: Layer) -> None:
        weight, groups = self.kernel(layer)
        bias = None
        if layer.option("use_bias", True):
            bias = self.take(layer, "bias", (len(weight),))
        stride, across = layer.pair("strides", 1)
        if stride != across or layer.pair("dilation_rate", 1) != (1, 1):
            raise InputError(f"layer {layer.name!r} has uneven strides or a dilation")
        node = ConvNode(
            name=layer.name,
            inputs=(self.source(layer),),
            weight=np.ascontiguousarray(weight),
            bias=bias,
            stride=stride,
            groups=groups,
            padding=_padding(layer),
        )
        self.put(layer, node)
        self.activation(layer)

    def kernel(self, layer: Layer) -> tuple[Weights, int]:
        """Return the weight (out, in / groups, height, width), and the groups."""
        if layer.kind == "Dense":
            return self.take(layer, "kernel", (None, None)).T[:, :, None, None], 1
        if layer.kind == "Conv2D":
            kernel = self.take(layer, "kernel", (*layer.pair("kernel_size", 0), None, None))
            return kernel.transpose(3, 2, 0, 1), int(layer.option("groups", 1))
        names = self.weights.get(layer.name, {})
        name = "depthwise_kernel" if "depthwise_kernel" in names else "kernel"
        kernel = self.take(layer, name, (*layer.pair("kernel_size", 0), None, 1))
        return kernel.transpose(2, 3, 0, 1), kernel.shape[2]

    def norm(self, layer: Layer) -> None:
        mean = self.take(layer, "moving_mean", (None,))
        shape = mean.shape
        scale = self.take(layer, "gamma", shape) if layer.option("scale", True) else None
        shift = self.take(layer, "beta", shape) if layer.option("center", True) else None
        node = NormNode(
            name=layer.name,
            inputs=(self.source(layer),),
            scale=np.ones_like(mean) if scale is None else scale,
            shift=np.zeros_like(mean) if shift is None else shift,
            mean=mean,
            variance=self.take(layer, "moving_variance", shape),
            epsilon=float(layer.option("epsilon", 1e-3)),
        )
        self.put(layer, node)

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
        self.put(layer, PadNode(name=layer.name, inputs=(self.source(layer),), padding=around))

    def pool(self, layer: Layer) -> None:
        kernel, stride = 0, 1
        if layer.kind != "GlobalAveragePooling2D":
            kernel, across = layer.pair("pool_size", 2)
            strides = layer.option("strides") or kernel
            stride = strides if isinstance(strides, int) else strides[0]
            if kernel != across:
                raise InputError(f"layer {layer.name!r} has an oblong window")
        node = PoolNode(
            name=layer.name,
            inputs=(self.source(layer),),
            function="max" if layer.kind == "MaxPooling2D" else "average",
            kernel=kernel,
            stride=stride,
            padding=_padding(layer),
        )
        self.put(layer, node)

    def join(self, layer: Layer, function: Any) -> None:
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
        if self.source(layer) != INPUT or self.preprocess is not None:
            raise InputError(f"layer {layer.name!r} rescales something else than the picture")
        scale, offset = float(layer.option("scale")), float(layer.option("offset", 0.0))
        if not scale > 0:
            raise InputError(f"layer {layer.name!r} rescales by {scale:g}")
        self.preprocess = Preprocess(mean=(-offset / scale,) * 3, std=(1 / scale,) * 3)
        self.pass_on(layer)


def _padding(layer: Layer) -> Any:
    padding = layer.option("padding", "valid")
    if padding not in ("same", "valid"):
        raise InputError(f"layer {layer.name!r} has padding {padding!r}")
    return "same" if padding == "same" else (0, 0, 0, 0)


def _check_reshape(layer: Layer) -> None:
    """Raise `InputError` for a reshape that does more than flatten one pixel."""
    shape = layer.option("target_shape", ())
    if sum(size != 1 for size in shape) > 1:
        raise InputError(f"layer {layer.name!r} reshapes to {shape}")

"""The topology of a Keras model (``model_config``), as `Graph`: of Keras 2, Keras 3, TensorFlow.js.

Layers are matched with their weights by name; what they do is in their configuration.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.affine import Affine
from mobilette.formats.graph import ActivationNode, ConvNode, Ending, Graph, JoinNode, Node
from mobilette.formats.keras.images import Images, arithmetic
from mobilette.formats.keras.layers import INPUT, KerasLayer, read_layers
from mobilette.formats.keras.nodes import (
    check_kind,
    check_reshape,
    conv_node,
    pad_node,
    pool_node,
)
from mobilette.formats.keras.weights import LayerWeights, RemainingWeights, norm_node

ACTIVATIONS: Mapping[str, Activation] = {
    "linear": "none",
    "relu": "relu",
    "relu6": "relu6",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
    "hard_sigmoid": "hard_sigmoid",
}
# What may stand at the end; a softmax of log_softmax is the softmax.
ENDINGS: Mapping[str, Ending] = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "Softmax": "softmax",
    "sigmoid": "sigmoid",
    "Sigmoid": "sigmoid",
}
# What a topology that is not Keras' own makes the reader raise.
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# They change no logit: a reshape is looked at, augmentation does nothing at inference.
PASSED_OVER = (
    *("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise"),
    *("Flatten", "Reshape", "Identity", "Cast", "ActivityRegularization"),
    *("RandAugment", "AugMix", "CutMix", "MixUp", "Solarization"),
)
RANDOM = "Random"  # so begin the names of other augmentations; a crop is none


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
        self.endings: dict[str, Ending] = {}  # of layers behind a softmax or sigmoid
        # relu6(x + 3) / 6 comes in three layers
        self.plus_three: dict[str, str] = {}
        self.capped: dict[str, str] = {}
        # layer to the batch norm between it and its node, which the next linear layer takes
        self.pending: dict[str, Affine] = {}

    def run(
        self, layers: Mapping[str, KerasLayer], shape: tuple[int, int, int], output: str
    ) -> Graph:
        reads = {name: layer.inputs for name, layer in layers.items()}
        self.images = Images(shape)
        self.readers = Counter(name for inputs in reads.values() for name in inputs)
        for name in graphlib.TopologicalSorter(reads).static_order():
            if name != INPUT:
                self.layer(layers[name])
        if output in self.pending:
            raise InputError(f"layer {output!r} is a batch norm at the end, behind no linear layer")
        return Graph(
            where=self.where,
            nodes=tuple(self.nodes.values()),
            input=INPUT,
            output=self.node_of[output],
            shape=self.images.shape,
            ending=self.endings.get(output, "logits"),
            preprocess=self.images.preprocess(),
            resize=self.images.resize,
            tensors=self.tensors,
            unused=self.weights.names(),
            remarks=tuple(self.images.remarks),
        )

    def layer(self, layer: KerasLayer) -> None:
        check_kind(layer)
        if layer.kind in PASSED_OVER or (
            layer.kind.startswith(RANDOM) and layer.kind != "RandomCrop"
        ):
            check_reshape(layer)
            self.pass_over(layer)
            return
        for name in layer.inputs:
            if name in self.endings:
                raise InputError(
                    f"layer {layer.name!r} follows a {self.endings[name]}; only the end may be one"
                )
        alone = len(layer.inputs) == 1
        if alone and layer.inputs[0] in self.images and self.images.prepare(layer, self.weights):
            self.node_of[layer.name] = INPUT
            return
        if alone and self.scale_logits(layer):
            return
        ending = ENDINGS.get(layer.kind) or ENDINGS.get(str(layer.option("activation")))
        if ending is not None:
            self.endings[layer.name] = ending
        translate = {
            "Conv2D": self.conv,
            "DepthwiseConv2D": self.conv,
            "Dense": self.conv,
            "BatchNormalization": self.norm,
            "Activation": self.activation,
            "ReLU": self.relu,
            "Softmax": self.pass_on,
            "Sigmoid": self.pass_on,
            "ZeroPadding2D": self.pad,
            "GlobalAveragePooling2D": self.pool,
            "AveragePooling2D": self.pool,
            "MaxPooling2D": self.pool,
            "Add": self.add,
            "Multiply": self.multiply,
            "Concatenate": self.concatenate,
        }.get(layer.kind)
        if translate is None:
            raise InputError(f"layer {layer.name!r} is a {layer.kind}, which no network here has")
        translate(layer)

    def pass_over(self, layer: KerasLayer) -> None:
        """Let a layer that changes no value hand on what it reads, whatever that is."""
        (source,) = layer.inputs
        if source in self.images:
            self.images.copy(layer)
        if source in self.pending:
            self.pending[layer.name] = self.pending[source]
        if source in self.endings:
            self.endings[layer.name] = self.endings[source]
        self.node_of[layer.name] = self.known(layer)

    def known(self, layer: KerasLayer) -> str:
        (name,) = layer.inputs
        if name not in self.node_of:
            raise InputError(f"layer {layer.name!r} reads {name!r}, which no network here has")
        return self.node_of[name]

    def source(self, layer: KerasLayer) -> str:
        """Return the node that a layer of the network reads."""
        self.known(layer)
        return self.sources(layer)[0]

    def sources(self, layer: KerasLayer) -> tuple[str, ...]:
        for name in layer.inputs:
            if name in self.pending:
                raise InputError(f"layer {name!r} is a batch norm that follows no convolution")
            if name in self.images:
                self.images.read(name)
        return tuple(self.node_of[name] for name in layer.inputs)

    def pass_on(self, layer: KerasLayer) -> None:
        self.node_of[layer.name] = self.source(layer)

    def scale_logits(self, layer: KerasLayer) -> bool:
        """Put a scaling behind a linear layer into its weights; whether ``layer`` is one."""
        node = self.nodes.get(self.node_of.get(layer.inputs[0], ""))
        if not isinstance(node, ConvNode) or not node.linear or layer.inputs[0] in self.pending:
            return False
        steps = arithmetic(layer, self.weights)
        if not steps:
            return False
        self.put_behind(layer, node, Affine.of_steps(steps))
        return True

    def put_behind(self, layer: KerasLayer, node: ConvNode, affine: Affine) -> None:
        if self.readers[layer.inputs[0]] > 1:
            raise InputError(f"layer {layer.inputs[0]!r} is read by {layer.name!r} and others")
        self.nodes[node.name] = affine.after(node)
        self.node_of[layer.name] = node.name

    def put(self, layer: KerasLayer, node: Node) -> None:
        if node.name in self.nodes or node.name == INPUT:
            raise InputError(f"two layers are called {node.name!r}")
        self.nodes[node.name] = node
        self.node_of[layer.name] = node.name

    def conv(self, layer: KerasLayer) -> None:
        behind = self.pending.get(layer.inputs[0])
        source = self.known(layer) if behind else self.source(layer)
        node = conv_node(layer, source, self.weights)
        self.put(layer, node if behind is None else behind.before(node))
        self.activation(layer)

    def norm(self, layer: KerasLayer) -> None:
        norm = norm_node(layer, (self.source(layer),), self.weights)
        before = self.nodes.get(norm.inputs[0])
        if isinstance(before, ConvNode) and not before.linear:
            self.put(layer, norm)
        elif isinstance(before, ConvNode):
            self.put_behind(layer, before, Affine.of_norm(norm))
        else:  # behind a pool or an activation: the next linear layer takes it
            self.pending[layer.name] = Affine.of_norm(norm)
            self.node_of[layer.name] = norm.inputs[0]

    def activation(self, layer: KerasLayer) -> None:
        """Add the activation that a layer is, or ends in."""
        name = layer.option("activation", "linear")
        known = ACTIVATIONS.get("linear" if str(name) in ENDINGS else str(name))
        if known is None or (known == "hard_sigmoid" and self.is_keras_2):
            raise InputError(f"layer {layer.name!r} has activation {name!r:.80}, not one of ours")
        self.activate(layer, known)

    def activate(self, layer: KerasLayer, function: Activation) -> None:
        before = self.node_of.get(layer.name) or self.source(layer)
        self.node_of[layer.name] = before
        if function != "none":
            name = f"{layer.name}/activation"
            self.put(layer, ActivationNode(name=name, inputs=(before,), function=function))

    def relu(self, layer: KerasLayer) -> None:
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

    def pad(self, layer: KerasLayer) -> None:
        self.put(layer, pad_node(layer, self.source(layer)))

    def pool(self, layer: KerasLayer) -> None:
        self.put(layer, pool_node(layer, self.source(layer)))

    def join(self, layer: KerasLayer, function: Literal["add", "concat", "scale"]) -> None:
        self.put(layer, JoinNode(name=layer.name, inputs=self.sources(layer), function=function))

    def add(self, layer: KerasLayer) -> None:
        if layer.numbers:
            if layer.numbers != (3.0,):
                raise InputError(f"layer {layer.name!r} adds {layer.numbers}")
            self.plus_three[layer.name] = self.source(layer)
            return
        self.join(layer, "add")

    def multiply(self, layer: KerasLayer) -> None:
        if layer.numbers:
            (factor,) = layer.numbers
            source = self.capped.get(layer.inputs[0])
            if source is None or abs(factor - 1 / 6) > 1e-6:
                raise InputError(f"layer {layer.name!r} multiplies by {factor:g}")
            node = ActivationNode(name=layer.name, inputs=(source,), function="hard_sigmoid")
            self.put(layer, node)
            return
        first, second = self.sources(layer)
        gate = self.nodes.get(second)
        if isinstance(gate, ActivationNode) and gate.inputs == (first,):  # x * hard_sigmoid(x)
            del self.nodes[second]
            swish = ActivationNode(name=layer.name, inputs=(first,), function="hard_swish")
            self.put(layer, swish)
            return
        self.join(layer, "scale")

    def concatenate(self, layer: KerasLayer) -> None:
        if layer.option("axis", -1) not in (-1, 3):
            raise InputError(f"layer {layer.name!r} concatenates something else than channels")
        self.join(layer, "concat")

"""Translates a Keras topology (``model_config``) of Keras 2, Keras 3 or TensorFlow.js.

Weights are matched with layers by name; what a layer does is in its configuration.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Mapping, Sequence

from mobilette.arch.primitives import INPUT, ActivationLayer, ConvLayer, LinearLayer
from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.file_layers import NO_PADS, Builder, Ending, FileNetwork, Join, Pads
from mobilette.formats.keras.images import Images, arithmetic
from mobilette.formats.keras.layers import KerasLayer, read_layers
from mobilette.formats.keras.weights import (
    Affine,
    LayerWeights,
    RemainingWeights,
    kernel,
    norm_arrays,
)

ACTIVATIONS: Mapping[str, Activation] = {
    "linear": "none",
    "relu": "relu",
    "relu6": "relu6",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
    "hard_sigmoid": "hard_sigmoid",
}
# Allowed at the end; a softmax of log_softmax is the softmax.
ENDINGS: Mapping[str, Ending] = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "Softmax": "softmax",
    "sigmoid": "sigmoid",
    "Sigmoid": "sigmoid",
}
# Raised by the reader for a topology that Keras did not write.
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# These change no logit: a reshape is checked, augmentation does nothing at inference.
PASSED_OVER = (
    *("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise"),
    *("Flatten", "Reshape", "Identity", "Cast", "ActivityRegularization"),
    *("RandAugment", "AugMix", "CutMix", "MixUp", "Solarization"),
)
RANDOM = "Random"  # prefix of other augmentations; RandomCrop is not one


def keras_graph(
    topology: object,
    weights: Sequence[LayerWeights],
    *,
    where: str,
    version: str,
    resolution: int | None = None,
) -> FileNetwork:
    """Return the network of a Keras model.

    Args:
        topology: the JSON value of ``model_config``.
        weights: of its layers.
        where: the file, for messages.
        version: of Keras; before 3, ``hard_sigmoid`` is another function.
        resolution: in pixels, if the model leaves it open.

    Raises:
        InputError: the topology is damaged or has unsupported layers.
    """
    try:
        layers, shape, output = read_layers(topology)
        return _Translation(weights, where, version, resolution).run(layers, shape, output)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except graphlib.CycleError as error:
        raise InputError(f"{where}: its layers read each other in a circle") from error
    except DAMAGED as error:
        raise InputError(f"{where}: its topology is damaged ({type(error).__name__})") from error


class _Translation:
    def __init__(
        self, weights: Sequence[LayerWeights], where: str, version: str, resolution: int | None
    ) -> None:
        self.where, self.resolution = where, resolution
        self.is_keras_2 = version.startswith(("1", "2"))
        self.weights = RemainingWeights(weights)
        self.tensors = self.weights.names()
        self.built = Builder((0, 0, 0))
        self.source_of = {INPUT: INPUT}  # Keras' layer to the built layer that has its output
        self.endings: dict[str, Ending] = {}  # of layers behind a softmax or sigmoid
        self.padded: dict[str, Pads] = {}  # of layers that add zeros around a map
        # relu6(x + 3) / 6 consists of three layers
        self.plus_three: dict[str, str] = {}
        self.capped: dict[str, str] = {}
        # layer to the batch norm on its input, to be folded into the next linear layer
        self.pending: dict[str, Affine] = {}

    def run(
        self, layers: Mapping[str, KerasLayer], shape: tuple[int, int, int], output: str
    ) -> FileNetwork:
        reads = {name: layer.inputs for name, layer in layers.items()}
        self.images = Images(shape)
        self.readers = Counter(name for inputs in reads.values() for name in inputs)
        for name in graphlib.TopologicalSorter(reads).static_order():
            if name != INPUT:
                self.layer(layers[name])
        if output in self.pending:
            raise InputError(f"layer {output!r} is a batch norm at the end, behind no linear layer")
        if output in self.padded:
            raise InputError(f"the output is the padding {output!r}")
        return FileNetwork(
            where=self.where,
            layers=tuple(self.built.layers.values()),
            output=self.source_of[output],
            shape=self.built.shape,
            ending=self.endings.get(output, "logits"),
            preprocess=self.images.preprocess(),
            resize=self.images.resize,
            tensors=self.tensors,
            unused=self.weights.names(),
            remarks=tuple(self.images.remarks),
        )

    def layer(self, layer: KerasLayer) -> None:
        _check_kind(layer)
        is_random = layer.kind.startswith(RANDOM) and layer.kind != "RandomCrop"
        if layer.kind in PASSED_OVER or is_random:
            self.pass_over(layer)
            return
        for name in layer.inputs:
            if name in self.endings:
                raise InputError(
                    f"layer {layer.name!r} follows a {self.endings[name]}; only the end may be one"
                )
        alone = len(layer.inputs) == 1
        if alone and layer.inputs[0] in self.images and self.images.prepare(layer, self.weights):
            self.source_of[layer.name] = INPUT
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
        """Replace a layer that changes no value by its input."""
        shape = layer.option("target_shape", ())
        if sum(size != 1 for size in shape) > 1:
            raise InputError(f"layer {layer.name!r} reshapes to {shape}")
        (source,) = layer.inputs
        if source in self.images:
            self.images.copy(layer)
        if source in self.pending:
            self.pending[layer.name] = self.pending[source]
        if source in self.endings:
            self.endings[layer.name] = self.endings[source]
        if source in self.padded:
            self.padded[layer.name] = self.padded[source]
        self.source_of[layer.name] = self.known(layer)

    def known(self, layer: KerasLayer) -> str:
        (name,) = layer.inputs
        if name not in self.source_of:
            raise InputError(f"layer {layer.name!r} reads {name!r}, which no network here has")
        return self.source_of[name]

    def source(self, layer: KerasLayer, *, padded: bool = False) -> str:
        """Return the input layer; only layers with a window may read padding."""
        self.known(layer)
        return self.sources(layer, padded=padded)[0]

    def sources(self, layer: KerasLayer, *, padded: bool = False) -> tuple[str, ...]:
        for name in layer.inputs:
            if name in self.pending:
                raise InputError(f"layer {name!r} is a batch norm that follows no convolution")
            if name in self.padded and not padded:
                raise InputError(
                    f"layer {layer.name!r} reads the padding {name!r}; a convolution is expected"
                )
            if name in self.images:
                self.images.read(name)
                self.begin()
        return tuple(self.source_of[name] for name in layer.inputs)

    def begin(self) -> None:
        """Set the network's input to the image at this point."""
        channels, height, width = self.images.shape
        side = height or self.resolution or 0
        if height != width:
            raise InputError(f"takes images of {width}x{height}; square ones are expected")
        if not side:
            raise InputError("takes images of any size; give --resolution")
        self.built.shape = (channels, side, side)

    def pass_on(self, layer: KerasLayer) -> None:
        self.source_of[layer.name] = self.source(layer)

    def scale_logits(self, layer: KerasLayer) -> bool:
        """Fold a scaling into the linear layer before it; return whether ``layer`` is a scaling."""
        name = self.source_of.get(layer.inputs[0], "")
        if not self.is_linear(name) or layer.inputs[0] in self.pending:
            return False
        steps = arithmetic(layer, self.weights)
        if not steps:
            return False
        self.put_behind(layer, name, Affine.of_steps(steps))
        return True

    def is_linear(self, name: str) -> bool:
        found = self.built.layers.get(name)
        return found is not None and isinstance(found.layer, LinearLayer)

    def put_behind(self, layer: KerasLayer, name: str, affine: Affine) -> None:
        if self.readers[layer.inputs[0]] > 1:
            raise InputError(f"layer {layer.inputs[0]!r} is read by {layer.name!r} and others")
        affine.put_after(self.built, name)
        self.source_of[layer.name] = name

    def conv(self, layer: KerasLayer) -> None:
        behind = self.pending.get(layer.inputs[0])
        source = self.known(layer) if behind else self.source(layer, padded=True)
        weight, groups = kernel(layer, self.weights)
        bias = None
        if layer.option("use_bias", True):
            bias = self.weights.take(layer, "bias", (len(weight),))
        if layer.size("dilation_rate", 1) != 1:
            raise InputError(f"layer {layer.name!r} has a dilation, which no network here has")
        before = self.padded.get(layer.inputs[0], NO_PADS)
        if layer.kind == "Dense":
            if before != NO_PADS:
                raise InputError(f"layer {layer.name!r} reads padding, but linear layers have none")
            made = self.built.linear(layer.name, source, weight, bias)
        else:
            made = self.built.conv(
                layer.name,
                source,
                weight,
                bias,
                stride=layer.size("strides", 1),
                groups=groups,
                same=_is_same(layer),
                before=before,
            )
        if behind is not None:
            behind.put_before(self.built, made)
        self.source_of[layer.name] = made
        self.activation(layer)

    def norm(self, layer: KerasLayer) -> None:
        source = self.source(layer)
        arrays, epsilon = norm_arrays(layer, self.weights)
        before = self.built.layers[source].layer if source in self.built.layers else None
        if isinstance(before, ConvLayer):
            self.source_of[layer.name] = self.built.norm(layer.name, source, arrays, epsilon)
        elif isinstance(before, LinearLayer):
            self.put_behind(layer, source, Affine.of_norm(arrays, epsilon))
        else:  # behind a pool or an activation: folded into the next linear layer
            self.pending[layer.name] = Affine.of_norm(arrays, epsilon)
            self.source_of[layer.name] = source

    def activation(self, layer: KerasLayer) -> None:
        """Add the activation that a layer is or ends in."""
        name = layer.option("activation", "linear")
        known = ACTIVATIONS.get("linear" if str(name) in ENDINGS else str(name))
        if known is None or (known == "hard_sigmoid" and self.is_keras_2):
            raise InputError(f"layer {layer.name!r} has activation {name!r:.80}, not one of ours")
        self.activate(layer, known)

    def activate(self, layer: KerasLayer, function: Activation) -> None:
        before = self.source_of.get(layer.name) or self.source(layer)
        if function != "none":
            before = self.built.activation(f"{layer.name}/activation", before, function)
        self.source_of[layer.name] = before

    def relu(self, layer: KerasLayer) -> None:
        cap = layer.option("max_value")
        others = layer.option("negative_slope", 0) or layer.option("threshold", 0)
        if others or cap not in (None, 6):
            raise InputError(f"layer {layer.name!r} is a ReLU with other options than max_value 6")
        if layer.inputs[0] in self.plus_three:
            self.capped[layer.name] = self.plus_three[layer.inputs[0]]
            return
        self.activate(layer, "relu" if cap is None else "relu6")

    def pad(self, layer: KerasLayer) -> None:
        source = self.source(layer)
        (top, bottom), (left, right) = (
            (side, side) if isinstance(side, int) else tuple(side)
            for side in layer.pair("padding", 0)
        )
        around = (int(top), int(bottom), int(left), int(right))
        if min(around) < 0:
            raise InputError(f"layer {layer.name!r} pads {around} pixels")
        self.source_of[layer.name] = source
        if any(around):
            self.padded[layer.name] = around

    def pool(self, layer: KerasLayer) -> None:
        if layer.kind == "GlobalAveragePooling2D":
            made = self.built.average(layer.name, self.source(layer))
        else:
            side = layer.size("pool_size", 2)
            made = self.built.pool(
                layer.name,
                self.source(layer, padded=True),
                "max" if layer.kind == "MaxPooling2D" else "average",
                kernel=side,
                stride=side if layer.option("strides") is None else layer.size("strides"),
                same=_is_same(layer),
                before=self.padded.get(layer.inputs[0], NO_PADS),
            )
        self.source_of[layer.name] = made

    def join(self, layer: KerasLayer, how: Join) -> None:
        self.source_of[layer.name] = self.built.join(layer.name, self.sources(layer), how)

    def add(self, layer: KerasLayer) -> None:
        if not layer.numbers:
            self.join(layer, "add")
        elif layer.numbers == (3.0,):
            self.plus_three[layer.name] = self.source(layer)
        else:
            raise InputError(f"layer {layer.name!r} adds {layer.numbers}")

    def multiply(self, layer: KerasLayer) -> None:
        if layer.numbers:
            (factor,) = layer.numbers
            capped = self.capped.get(layer.inputs[0])
            if capped is None or abs(factor - 1 / 6) > 1e-6:
                raise InputError(f"layer {layer.name!r} multiplies by {factor:g}")
            made = self.built.activation(layer.name, capped, "hard_sigmoid")
            self.source_of[layer.name] = made
            return
        first, second = self.sources(layer)
        gate = self.built.layers[second].layer if second in self.built.layers else None
        # x * hard_sigmoid(x)
        if (
            isinstance(gate, ActivationLayer)
            and gate.function == "hard_sigmoid"
            and gate.inputs == (first,)
        ):
            del self.built.layers[second]
            self.source_of[layer.name] = self.built.activation(layer.name, first, "hard_swish")
            return
        self.join(layer, "scale")

    def concatenate(self, layer: KerasLayer) -> None:
        if layer.option("axis", -1) not in (-1, 3):
            raise InputError(f"layer {layer.name!r} concatenates something else than channels")
        self.join(layer, "concat")


def _check_kind(layer: KerasLayer) -> None:
    """Raise `InputError` for a layer that holds code, is quantised or has channels first."""
    if layer.kind == "Lambda":
        raise InputError(
            f"layer {layer.name!r} is a Lambda: code, which is not executed; write what it does "
            "as layers (Rescaling, ...) and save the model again"
        )
    if layer.option("quantization_config") or "Quantized" in str(layer.option("dtype")):
        raise InputError(
            f"layer {layer.name!r} is quantised; save the model as it was before model.quantize"
        )
    if layer.option("data_format", "channels_last") not in ("channels_last", None):
        raise InputError(f"layer {layer.name!r} has channels first; channels_last is read")


def _is_same(layer: KerasLayer) -> bool:
    padding = layer.option("padding", "valid")
    if padding not in ("same", "valid"):
        raise InputError(f"layer {layer.name!r} has padding {padding!r}")
    return bool(padding == "same")

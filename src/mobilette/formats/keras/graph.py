"""Translates a Keras topology (``model_config``) of Keras 2, Keras 3 or TensorFlow.js.

Weights are matched with layers by name; what a layer does is in its configuration.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mobilette.arch.primitives import INPUT, ConvLayer, LinearLayer
from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.file_layers import Ending, FileNetwork, Join
from mobilette.formats.keras.images import GEOMETRY, Geometry, arithmetic
from mobilette.formats.keras.layers import KerasLayer, read_layers
from mobilette.formats.keras.weights import LayerWeights, RemainingWeights, kernel, norm_arrays
from mobilette.formats.values import Affine, Pixels, Step, Value, Values

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
    "sigmoid": "sigmoid",
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
    """
    try:
        layers, shape, output = read_layers(topology)
        return _Translation(weights, where, version, resolution).run(layers, shape, output)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except graphlib.CycleError as error:
        raise InputError(f"{where}: its layers form a cycle") from error
    except DAMAGED as error:
        raise InputError(f"{where}: its topology is damaged ({type(error).__name__})") from error


class _Translation:
    def __init__(
        self, weights: Sequence[LayerWeights], where: str, version: str, resolution: int | None
    ) -> None:
        self.where, self.resolution = where, resolution
        self.is_keras_2 = version.startswith(("1", "2"))
        self.weights = RemainingWeights(weights)
        self.built = Values()
        self.values: dict[str, Value] = {}

    def run(
        self, layers: Mapping[str, KerasLayer], shape: tuple[int, int, int], output: str
    ) -> FileNetwork:
        tensors = self.weights.names()
        channels, height, width = shape
        self.geometry = Geometry(height, width)
        pixels = Pixels(mean=(0.0,) * channels, std=(1.0,) * channels, is_stated=False)
        self.values[INPUT] = Value(layer=INPUT, pixels=pixels)
        reads = {name: layer.inputs for name, layer in layers.items()}
        self.readers = Counter(name for inputs in reads.values() for name in inputs)
        for name in graphlib.TopologicalSorter(reads).static_order():
            if name != INPUT:
                self.values[name] = self.value_of(layers[name])
        if self.values[output].affine is not None:
            raise InputError(
                f"layer {output!r} is a batch norm at the end without a linear layer before it"
            )
        logits, ending = self.built.logits(self.values[output])
        return FileNetwork(
            where=self.where,
            layers=self.built.leading_to(logits),
            output=logits,
            shape=self.built.shape,
            ending=ending,
            preprocess=self.geometry.preprocess(self.built.preprocess()),
            resize=self.geometry.resize,
            tensors=tensors,
            unused=self.weights.names(),
            remarks=tuple(self.geometry.remarks),
        )

    def value_of(self, layer: KerasLayer) -> Value:
        _check_kind(layer)
        values = [self.values[name] for name in layer.inputs]
        pixels = next((value.pixels for value in values if value.pixels), None)
        is_random = layer.kind.startswith(RANDOM) and layer.kind != "RandomCrop"
        if layer.kind in PASSED_OVER or is_random:
            shape = layer.option("target_shape", ())
            if sum(size != 1 for size in shape) > 1:
                raise layer.fault(f"reshapes to {shape}")
            (value,) = values
            return value
        if pixels is not None and len(values) == 1 and layer.kind in GEOMETRY:
            self.geometry.change(layer)
            return values[0]
        steps = arithmetic(layer, self.weights)
        if pixels is not None and not steps:
            self.built.shape = self.geometry.begin(len(pixels.mean), self.resolution)
        try:
            if steps:
                return self.scale(layer, values[0], steps)
            return self.translate(layer, values)
        except InputError as error:
            said = str(error)
            named = said.startswith("layer ")
            raise InputError(said if named else f"layer {layer.name!r}: {said}") from None

    def translate(self, layer: KerasLayer, values: list[Value]) -> Value:
        """Append what a layer of the network computes."""
        if layer.kind in ("Add", "Multiply", "Concatenate"):
            return self.join(layer, values)
        translate = {
            "Conv2D": self.conv,
            "DepthwiseConv2D": self.conv,
            "Dense": self.conv,
            "BatchNormalization": self.norm,
            "Activation": self.activation,
            "Softmax": self.activation,
            "Sigmoid": self.activation,
            "ReLU": self.relu,
            "ZeroPadding2D": self.pad,
            "GlobalAveragePooling2D": self.pool,
            "AveragePooling2D": self.pool,
            "MaxPooling2D": self.pool,
        }.get(layer.kind)
        if translate is None:
            raise layer.fault(f"is a {layer.kind}, which is not supported")
        (value,) = values
        return translate(layer, value)

    def scale(self, layer: KerasLayer, value: Value, steps: list[Step]) -> Value:
        """Scale the image or the logits, or do a step of hard-sigmoid."""
        is_plain = value.form == "plain" and value.affine is None
        if is_plain and isinstance(self.built.layer(value.layer), LinearLayer):
            return self.fold(layer, value, Affine.of_steps(steps))
        for operation, numbers in steps:
            value = self.built.with_constant(operation, value, numbers)
        return value

    def fold(self, layer: KerasLayer, value: Value, affine: Affine) -> Value:
        """Fold ``layer`` into the linear layer before it."""
        if self.readers[layer.inputs[0]] > 1:
            raise InputError(f"layer {layer.inputs[0]!r} is read by {layer.name!r} and others")
        affine.put_after(self.built, value.layer)
        return value

    def conv(self, layer: KerasLayer, value: Value) -> Value:
        weight, groups = kernel(layer, self.weights)
        bias = None
        if layer.option("use_bias", True):
            bias = self.weights.take(layer, "bias", (len(weight),))
        if layer.size("dilation_rate", 1) != 1:
            raise layer.fault("has a dilation, which is not supported")
        affine, value = value.affine, replace(value, affine=None)
        if layer.kind == "Dense":
            made = self.built.linear(layer.name, self.built.plain(value), weight, bias)
        else:
            made = self.built.conv(
                layer.name,
                self.built.window(value),
                weight,
                bias,
                stride=layer.size("strides", 1),
                groups=groups,
                same=_is_same(layer),
                before=value.pads,
            )
        if affine is not None:
            affine.put_before(self.built, made)
        return self.activation(layer, Value(layer=made))

    def norm(self, layer: KerasLayer, value: Value) -> Value:
        source = self.built.plain(value)
        arrays, epsilon = norm_arrays(layer, self.weights)
        before = self.built.layer(source)
        if isinstance(before, ConvLayer):
            return Value(layer=self.built.norm(layer.name, source, arrays, epsilon))
        affine = Affine.of_norm(arrays, epsilon)
        if isinstance(before, LinearLayer):
            return self.fold(layer, value, affine)
        return Value(layer=source, affine=affine)  # behind a pool or an activation

    def activation(self, layer: KerasLayer, value: Value) -> Value:
        """Return ``value`` after the activation that a layer is or ends in."""
        own = layer.kind.lower() if layer.kind in ("Softmax", "Sigmoid") else "linear"
        name = str(layer.option("activation", own))
        if name in ENDINGS:
            return self.built.ended(value, ENDINGS[name])
        known = ACTIVATIONS.get(name)
        if known is None or (known == "hard_sigmoid" and self.is_keras_2):
            raise layer.fault(f"has the unsupported activation {name!r:.80}")
        return self.built.activated(value, known)

    def relu(self, layer: KerasLayer, value: Value) -> Value:
        cap = layer.option("max_value")
        others = layer.option("negative_slope", 0) or layer.option("threshold", 0)
        if others or cap not in (None, 6):
            raise layer.fault("is a ReLU with options other than max_value 6")
        return self.built.activated(value, "relu" if cap is None else "relu6")

    def pad(self, layer: KerasLayer, value: Value) -> Value:
        (top, bottom), (left, right) = (
            (side, side) if isinstance(side, int) else tuple(side)
            for side in layer.pair("padding", 0)
        )
        around = (int(top), int(bottom), int(left), int(right))
        if min(around) < 0:
            raise layer.fault(f"pads {around} pixels")
        return self.built.padded(value, around) if any(around) else value

    def pool(self, layer: KerasLayer, value: Value) -> Value:
        if layer.kind == "GlobalAveragePooling2D":
            return Value(layer=self.built.average(layer.name, self.built.plain(value)))
        side = layer.size("pool_size", 2)
        made = self.built.pool(
            layer.name,
            self.built.window(value),
            "max" if layer.kind == "MaxPooling2D" else "average",
            kernel=side,
            stride=side if layer.option("strides") is None else layer.size("strides"),
            same=_is_same(layer),
            before=value.pads,
        )
        return Value(layer=made)

    def join(self, layer: KerasLayer, values: list[Value]) -> Value:
        if layer.numbers and layer.kind != "Concatenate":
            raise layer.fault(f"reads several layers and {layer.numbers}")
        if layer.kind == "Multiply":
            first, second = values
            return self.built.product(layer.name, first, second)
        if layer.option("axis", -1) not in (-1, 3):
            raise layer.fault("does not concatenate channels")
        how: Join = "add" if layer.kind == "Add" else "concat"
        sources = tuple(self.built.plain(value) for value in values)
        return Value(layer=self.built.join(layer.name, sources, how))


def _check_kind(layer: KerasLayer) -> None:
    """Raise `InputError` for a layer that holds code, is quantised or has channels first."""
    if layer.kind == "Lambda":
        raise layer.fault(
            "is a Lambda: code, which is not executed; write what it does "
            "as layers (Rescaling, ...) and save the model again"
        )
    if layer.option("quantization_config") or "Quantized" in str(layer.option("dtype")):
        raise layer.fault("is quantised; save the model as it was before model.quantize")
    if layer.option("data_format", "channels_last") not in ("channels_last", None):
        raise layer.fault("has channels first; only channels_last is supported")


def _is_same(layer: KerasLayer) -> bool:
    padding = layer.option("padding", "valid")
    if padding not in ("same", "valid"):
        raise layer.fault(f"has padding {padding!r}")
    return bool(padding == "same")

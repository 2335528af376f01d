"""Keras: the layers of the network as layers of Keras, saved by Keras itself."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
    Shape,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
    symmetric_padding,
)
from mobilette.arch.rows import Activation
from mobilette.artifact.contract import METADATA_KEY, Contract
from mobilette.errors import InputError
from mobilette.exporters.target import Calibration, Progress, Target, Written
from mobilette.folders import scratch
from mobilette.formats.keras.file import METADATA
from mobilette.formats.keras.library import EXTRA, import_keras
from mobilette.model.model import Model
from mobilette.silence import silence

MODEL = "model.keras"
NORMALISE = "normalise"
ACTIVATIONS: Mapping[Activation, str] = MappingProxyType(
    {
        "none": "linear",
        "relu": "relu",
        "relu6": "relu6",
        "hard_swish": "hard_silu",
        "hard_sigmoid": "hard_sigmoid",
        "sigmoid": "sigmoid",
    }
)
LOWEST = float(np.finfo(np.float32).min)  # instead of infinity, which JSON has not


def write_keras(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the archive, for float32 pixels (N, H, W, C), 0 to 255.

    The contract is in its metadata.json.
    """
    keras = import_keras("export to keras")
    with silence(), scratch() as folder:
        path = folder / MODEL
        keras_model(keras, model, contract).save(path)
        content = _with_metadata(path.read_bytes(), {METADATA_KEY: contract.embedded()})
    return Written(files={MODEL: content})


KERAS = Target(
    name="keras",
    precisions=("fp32",),
    packages=("keras", "h5py"),
    extra=EXTRA,
    model=MODEL,
    layout="NHWC",
    dtype="float32",
    features=None,
    writer=write_keras,
    imports="""\
import os
os.environ.setdefault("KERAS_BACKEND", "torch")
import keras""",
    code="""\
model = keras.saving.load_model("{model}")
images = pixels.transpose(0, 2, 3, 1).astype(np.float32)
logits = keras.ops.convert_to_numpy(model(images, training=False))[0]""",
    notes="""
`model.get_layer("head_classifier")` and the others are called as Mobilette's layers, with `_` for
`.`; batch norms are folded into the convolutions. All weights can be trained.
""",
)


def keras_model(keras: Any, model: Model, contract: Contract) -> Any:
    """Return the functional model of Keras that computes logits from pixels.

    Args:
        keras: the package.
        model: with batch norms folded.
        contract: its input and output give names and sizes.
    """
    height, width, channels = contract.input.shape
    pixels = keras.Input((height, width, channels), name=contract.input.name)
    mean, std = model.preprocess.mean, model.preprocess.std
    scale = [1 / each for each in std]
    offset = [-shift / each for shift, each in zip(mean, std, strict=True)]
    ordered = keras.ops.flip(pixels, axis=-1) if model.preprocess.colour == "bgr" else pixels
    values = {INPUT: keras.layers.Rescaling(scale, offset, name=NORMALISE)(ordered)}
    shapes: dict[str, Shape] = {INPUT: (channels, height, width)}
    graph = {layer.name: layer for layer in layers(model.arch)}
    for layer in graph.values():
        inputs = [values[name] for name in layer.inputs]
        before = layer.inputs[0]
        if isinstance(graph.get(before), FlattenLayer) and isinstance(layer, LinearLayer):
            shape = shapes[graph[before].inputs[0]]
        else:
            shape = shapes[before]
        maker = _Layer(keras, model.weights, shape, not_below_zero=_is_relu(graph.get(before)))
        values[layer.name], shapes[layer.name] = maker.output(layer, inputs), layer.shape
    logits = keras.layers.Identity(name=contract.output)(values[layer.name])
    return keras.Model(pixels, logits, name=re.sub(r"\W", "_", model.arch.name))


def _is_relu(layer: AnyLayer | None) -> bool:
    return isinstance(layer, ActivationLayer) and layer.function in ("relu", "relu6")


def keras_name(layer: str) -> str:
    """Return the name in Keras of one of our layers; its PyTorch backend takes no dots."""
    return layer.replace(".", "_")


class _Layer:
    """Makes Keras' layers for one of ours.

    Args:
        keras: the package.
        weights: of the model.
        shape: of the first input (channels, height, width); for a linear layer after a flattening,
            before that.
        not_below_zero: whether the first input is at least zero.
    """

    def __init__(
        self, keras: Any, weights: Mapping[str, Tensor], shape: Shape, *, not_below_zero: bool
    ) -> None:
        self.ops, self.layers, self.weights = keras.ops, keras.layers, weights
        self.shape, self.not_below_zero = shape, not_below_zero

    def output(self, layer: AnyLayer, inputs: Sequence[Any]) -> Any:
        """Return the output of ``layer`` for its ``inputs``."""
        x, name = inputs[0], keras_name(layer.name)
        match layer:
            case ConvLayer():
                return self.conv(layer, x)
            case LinearLayer():
                made = self.layers.Dense(layer.shape[0], name=name)
                return self.filled(made, x, self.dense_kernel(layer), layer.name)
            case NormLayer():
                raise AssertionError(f"{layer.name}: not folded")
            case ActivationLayer():
                return self.layers.Activation(ACTIVATIONS[layer.function], name=name)(x)
            case PoolLayer():
                return self.pool(layer, x)
            case AdaptivePoolLayer():
                return self.adaptive_pool(layer, x)
            case SliceLayer():
                return x[:, :, :, layer.begin : layer.end]
            case ShuffleLayer():
                return self.shuffle(layer, x)
            case SubsampleLayer():
                added = layer.new_channels // 2
                x = x[:, :: layer.stride, :: layer.stride]
                return self.ops.pad(x, ((0, 0), (0, 0), (0, 0), (added, added)))
            case FlattenLayer():
                return self.layers.Flatten(name=name)(x)
            case AddLayer():
                return self.layers.Add(name=name)(inputs)
            case ConcatLayer():
                return self.layers.Concatenate(name=name)(inputs)
            case ScaleLayer():
                return self.layers.Multiply(name=name)(inputs)
            case _:
                assert_never(layer)

    def conv(self, layer: ConvLayer, x: Any) -> Any:
        name, zeros = keras_name(layer.name), symmetric_padding(layer.kernel)
        # With stride 1 and odd kernels, symmetric padding is "same".
        same = layer.padding == "tf_same" or (layer.padding == "symmetric" and layer.stride == 1)
        if layer.padding == "symmetric" and not same and zeros:
            x = self.layers.ZeroPadding2D(zeros, name=f"{name}_pad")(x)
        options: dict[str, Any] = {
            "strides": layer.stride,
            "padding": "same" if same else "valid",
            "use_bias": layer.bias,
            "name": name,
        }
        weight = self.weights[f"{layer.name}.weight"].numpy()
        if layer.is_depthwise:
            made = self.layers.DepthwiseConv2D(layer.kernel, **options)
            return self.filled(made, x, weight.transpose(2, 3, 0, 1), layer.name)
        options["groups"] = layer.groups
        made = self.layers.Conv2D(layer.shape[0], layer.kernel, **options)
        return self.filled(made, x, weight.transpose(2, 3, 1, 0), layer.name)

    def filled(self, made: Any, x: Any, kernel: NDArray[np.float32], name: str) -> Any:
        """Return the output of the Keras layer ``made`` for ``x``, with our weights in it."""
        output = made(x)
        bias = self.weights.get(f"{name}.bias")
        made.set_weights([kernel] if bias is None else [kernel, bias.numpy()])
        return output

    def dense_kernel(self, layer: LinearLayer) -> NDArray[np.float32]:
        """Return (in, out); Keras flattens (height, width, channels)."""
        weight = self.weights[f"{layer.name}.weight"].numpy()
        if len(self.shape) == 3:
            weight = weight.reshape(-1, *self.shape).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        return weight.T

    def pool(self, layer: PoolLayer, x: Any) -> Any:
        name, padding = keras_name(layer.name), layer.padding
        ends = [
            max((windows - 1) * layer.stride + layer.kernel - side - padding, 0)
            for windows, side in zip(layer.shape[1:], self.shape[1:], strict=True)
        ]
        if padding or any(ends):
            if layer.function == "average" and max(ends) > padding:
                raise InputError(
                    f"--to keras: layer {layer.name} averages windows over the edge without "
                    "counting what lies outside, which Keras cannot; use --to onnx"
                )
            around = [(padding, end) for end in ends]
            if layer.function == "average" or self.not_below_zero:
                x = self.layers.ZeroPadding2D(around, name=f"{name}_pad")(x)
            else:
                pads = ((0, 0), *around, (0, 0))
                x = self.ops.pad(x, pads, mode="constant", constant_values=LOWEST)
        of = self.layers.MaxPooling2D if layer.function == "max" else self.layers.AveragePooling2D
        return of(layer.kernel, layer.stride, name=name)(x)

    def adaptive_pool(self, layer: AdaptivePoolLayer, x: Any) -> Any:
        name, (_, *sides) = keras_name(layer.name), layer.shape
        if sides == [1, 1]:
            return self.layers.GlobalAveragePooling2D(keepdims=True, name=name)(x)
        if layer.shape == self.shape:
            return x
        return self.layers.AdaptiveAveragePooling2D(tuple(sides), name=name)(x)

    def shuffle(self, layer: ShuffleLayer, x: Any) -> Any:
        name, (channels, *sides) = keras_name(layer.name), layer.shape
        each = channels // layer.groups
        x = self.layers.Reshape((*sides, layer.groups, each), name=f"{name}_groups")(x)
        x = self.layers.Permute((1, 2, 4, 3), name=f"{name}_transpose")(x)
        return self.layers.Reshape((*sides, channels), name=name)(x)


def _with_metadata(archive: bytes, more: Mapping[str, Any]) -> bytes:
    """Return a Keras archive with ``more`` in its metadata, which Keras ignores."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == METADATA:
                content = json.dumps({**json.loads(content), **more}).encode()
            new.writestr(name, content)
    return changed.getvalue()

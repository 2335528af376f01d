"""The weights of a Keras model's layers, by name or, without a topology, in order.

Keras 3's layout of weights without a topology (``layers/functional/layers/conv2d_3/vars/0``)
identifies layers by class and number: layers of one class are ordered, those of different classes
are not. keras.applications publishes its ImageNet weights in order of execution. Layer names differ
between versions and say nothing about padding or activations, so kernels are matched in order with
the layers of the `Arch`, every shape is checked, and Keras' conventions are assumed (TensorFlow's
padding, epsilon 1e-3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, FlattenLayer, LinearLayer, NormLayer, Shape
from mobilette.arch.rows import Block, Conv
from mobilette.errors import InputError
from mobilette.formats.file_layers import NORM, FileLayer, Weights
from mobilette.formats.keras.layers import KerasLayer
from mobilette.formats.matching import norm_tensors

# In the order in which Keras 3 numbers them
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Conv2D": ("kernel", "bias"),
    "DepthwiseConv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Normalization": ("mean", "variance"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """The weights of one layer by Keras' names: ``kernel``, ``bias``, ``gamma``, ...

    Attributes:
        name: the layer's name, ``MODEL/LAYER`` in a nested model; in Keras 3's layout its path,
            with parameters "0", "1", ...
        kind: ``kernel``, ``depthwise`` or ``norm`` where only layers of one kind are ordered.
    """

    name: str
    parameters: Mapping[str, Weights]
    kind: str = ""


class RemainingWeights:
    """The weights not taken yet."""

    def __init__(self, weights: Sequence[LayerWeights]) -> None:
        self._layers = {layer.name: dict(layer.parameters) for layer in weights}

    def names(self) -> tuple[str, ...]:
        """Return ``layer/parameter`` of all remaining weights."""
        return tuple(
            f"{layer}/{parameter}"
            for layer, parameters in self._layers.items()
            for parameter in parameters
        )

    def has(self, layer: KerasLayer, parameter: str) -> bool:
        """Return whether the parameter remains."""
        return parameter in self._named(layer)

    def take(self, layer: KerasLayer, parameter: str, shape: tuple[int | None, ...]) -> Weights:
        """Remove and return a weight of ``shape`` (``None``: any size)."""
        array = self._named(layer).pop(parameter, None)
        if array is None:
            raise layer.fault(f"has no {parameter} in the file")
        fits = len(shape) == array.ndim and all(
            wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            raise InputError(f"layer {layer.name!r}: its {parameter} is of shape {array.shape}")
        return array

    def _named(self, layer: KerasLayer) -> dict[str, Weights]:
        key = next((key for key in layer.keys if key in self._layers), "")
        parameters = self._layers.get(key, {})
        if "0" in parameters:
            names = [name for name in PARAMETERS[layer.kind] if _has_parameter(layer, name)]
            if len(parameters) != len(names):
                raise layer.fault(
                    f"has {len(parameters)} arrays in the file; {len(names)} are expected"
                )
            self._layers[key] = dict(zip(names, parameters.values(), strict=True))
        return self._layers.get(key, {})


def _has_parameter(layer: KerasLayer, name: str) -> bool:
    options = {"bias": "use_bias", "gamma": "scale", "beta": "center"}
    return bool(layer.option(options[name], True)) if name in options else True


def kernel(layer: KerasLayer, weights: RemainingWeights) -> tuple[Weights, int]:
    """Return a layer's weight (out, in / groups, height, width) or (out, in), and its groups."""
    if layer.kind == "Dense":
        return weights.take(layer, "kernel", (None, None)).T, 1
    if layer.kind == "Conv2D":
        size = layer.size("kernel_size")
        array = weights.take(layer, "kernel", (size, size, None, None))
        return array.transpose(3, 2, 0, 1), int(layer.option("groups", 1))
    older = weights.has(layer, "depthwise_kernel")
    size = layer.size("kernel_size")
    array = weights.take(layer, "depthwise_kernel" if older else "kernel", (size, size, None, 1))
    return array.transpose(2, 3, 0, 1), array.shape[2]


def norm_arrays(layer: KerasLayer, weights: RemainingWeights) -> tuple[dict[str, Weights], float]:
    """Return a batch norm's arrays by their PyTorch names, and its epsilon."""
    if layer.option("axis", -1) not in (-1, 3, [-1], [3]):
        raise layer.fault("does not normalise channels")
    epsilon = float(layer.option("epsilon", 1e-3))
    if not 0 < epsilon < 1:
        raise layer.fault(f"has epsilon {epsilon:g}; 0 to 1 are expected")
    mean = weights.take(layer, "moving_mean", (None,))
    shape = mean.shape
    scale = weights.take(layer, "gamma", shape) if layer.option("scale", True) else None
    shift = weights.take(layer, "beta", shape) if layer.option("center", True) else None
    arrays = {
        "weight": np.ones_like(mean) if scale is None else scale,
        "bias": np.zeros_like(mean) if shift is None else shift,
        "running_mean": mean,
        "running_var": weights.take(layer, "moving_variance", shape),
    }
    return arrays, epsilon


# Class to its layer class and its kind
CLASSES = {
    "conv2d": ("Conv2D", "kernel"),
    "dense": ("Dense", "kernel"),
    "depthwise_conv2d": ("DepthwiseConv2D", "depthwise"),
    "batch_normalization": ("BatchNormalization", "norm"),
}
PATH = re.compile(rf"(?:(.*)/)?({'|'.join(CLASSES)})(?:_(\d+))?")


def in_order_of_kind(layers: Sequence[LayerWeights], *, where: str) -> list[LayerWeights]:
    """Return the layers with kernels, depthwise kernels and batch norms, each kind in order."""
    found: list[tuple[str, int, LayerWeights]] = []
    models: dict[str, str] = {}
    for layer in layers:
        path = PATH.fullmatch(layer.name)
        if path is None:
            raise InputError(
                f"{where}: weights without a topology, and a layer at {layer.name!r:.80}, whose "
                "class that does not tell; save the whole model: model.save('model.keras')"
            )
        model, name, number = path[1] or "", path[2], int(path[3] or 0)
        if models.setdefault(name, model) != model:
            raise InputError(
                f"{where}: weights without a topology, and layers {name!r} in several models, "
                "whose order is unknown; save the whole model: model.save('model.keras')"
            )
        kind, queue = CLASSES[name]
        arrays = list(layer.parameters.values())
        names = PARAMETERS[kind]
        if len(arrays) > len(names) or (queue == "norm" and len(arrays) < len(names)):
            raise InputError(
                f"{where}: {layer.name!r} has {len(arrays)} arrays; {', '.join(names)} are expected"
            )
        named = dict(zip(names, arrays, strict=False))
        found.append((name, number, LayerWeights(name=layer.name, parameters=named, kind=queue)))
    if not found:
        raise InputError(f"{where}: no weights of a Keras model in the file")
    found.sort(key=lambda entry: (list(CLASSES).index(entry[0]), entry[1]))
    return [layer for _, _, layer in found]


EPSILON = 1e-3
KERNELS = ("kernel", "depthwise_kernel")


def match_in_order(
    weights: Sequence[LayerWeights], arch: Arch, *, where: str
) -> tuple[Arch, dict[str, Tensor]]:
    """Return ``arch`` with Keras' conventions, and its weights."""
    if any(isinstance(row, Block) and sum(map(bool, row.paths)) > 1 for row in arch.rows):
        raise InputError(
            f"{where}: weights without a topology; the order of {arch.name}'s parallel layers is "
            "unknown; save the whole model in Keras (model.save)"
        )
    ours = with_conventions(arch)
    queues = _queues(weights)
    tensors: dict[str, Tensor] = {}
    before: Shape = ()
    for layer in layers(ours):
        if isinstance(layer, ConvLayer | LinearLayer):
            depthwise = isinstance(layer, ConvLayer) and layer.is_depthwise
            kind = "depthwise" if depthwise else "kernel"
            found = _next(queues[kind], KERNELS, layer.name, where)
            tensors |= _kernel(layer, found, before, where)
        elif isinstance(layer, NormLayer):
            found = _next(queues["norm"], ("moving_mean",), layer.name, where)
            tensors |= norm_tensors(layer.name, _norm(found, layer, where), ours)
        if not isinstance(layer, FlattenLayer):
            before = layer.shape
    left = [layer.name for kind in queues for layer in queues[kind] if layer.parameters]
    if left:
        raise InputError(f"{where}: layer {left[0]!r} comes after the end of {arch.name}")
    return ours, tensors


def _queues(weights: Sequence[LayerWeights]) -> dict[str, Iterator[LayerWeights]]:
    """Return an iterator per kind of layer; all the same one if the file orders all layers."""
    kinds = ("kernel", "depthwise", "norm")
    if not any(layer.kind for layer in weights):
        return dict.fromkeys(kinds, iter(weights))
    return {kind: iter([layer for layer in weights if layer.kind == kind]) for kind in kinds}


def with_conventions(arch: Arch) -> Arch:
    """Return ``arch`` with the batch norm epsilon and padding of Keras' constructors."""

    def change(name: str, conv: Conv) -> Conv:
        return replace(conv, padding="tf_same") if conv.stride > 1 else conv

    return change_convs(replace(arch, norm_epsilon=EPSILON), change)


def _next(
    remaining: Iterator[LayerWeights], needed: Sequence[str], ours: str, where: str
) -> LayerWeights:
    for layer in remaining:
        if any(name in layer.parameters for name in needed):
            return layer
        if layer.parameters:
            raise InputError(
                f"{where}: layer {layer.name!r} has {', '.join(layer.parameters)} where "
                f"{ours} is expected"
            )
    raise InputError(f"{where}: ends before {ours}; weights of the whole network are expected")


def _kernel(
    layer: ConvLayer | LinearLayer, found: LayerWeights, before: Shape, where: str
) -> dict[str, Tensor]:
    name = next(name for name in KERNELS if name in found.parameters)
    kernel = found.parameters[name]
    kernel = kernel[None, None] if kernel.ndim == 2 else kernel
    if isinstance(layer, LinearLayer):
        wanted: Shape = (1, 1, layer.in_features, layer.shape[0])
        groups = 1
    else:
        side, groups = layer.kernel, layer.groups
        wanted = (side, side, layer.in_channels // groups, layer.shape[0])
    if groups > 1 and kernel.ndim == 4:  # Keras: (height, width, channels, multiplier)
        kernel = kernel.transpose(0, 1, 3, 2)
    if kernel.shape != wanted:
        raise InputError(
            f"{where}: layer {found.name!r} has a kernel of shape {kernel.shape}, but {layer.name} "
            f"needs {wanted}"
        )
    bias = found.parameters.get("bias")
    needs_bias = isinstance(layer, LinearLayer) or layer.bias
    if (bias is None) == needs_bias or (bias is not None and bias.shape != layer.shape[:1]):
        raise InputError(f"{where}: layer {found.name!r} has a different bias than {layer.name}")
    weight = torch.tensor(kernel.transpose(3, 2, 0, 1))
    if isinstance(layer, LinearLayer):
        if len(before) == 3:  # Keras flattens (height, width, channels)
            channels, height, width = before
            weight = weight.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        weight = weight.reshape(len(weight), -1)
    tensors = {f"{layer.name}.weight": weight.contiguous()}
    return tensors if bias is None else tensors | {f"{layer.name}.bias": torch.tensor(bias)}


def _norm(found: LayerWeights, layer: NormLayer, where: str) -> FileLayer:
    channels = layer.shape[:1]
    arrays: dict[str, Weights] = {}
    for name, ours in zip(PARAMETERS["BatchNormalization"], NORM, strict=True):
        array = found.parameters.get(name)
        if array is None or array.shape != channels:
            raise InputError(
                f"{where}: layer {found.name!r} has no {name} of {channels[0]} channels, which "
                f"{layer.name} needs"
            )
        arrays[ours] = array
    return FileLayer(layer=layer, tensors=arrays, epsilon=EPSILON)

"""The weights of a Keras model's layers, by layer and parameter name.

Keras 3's layout of weights without a topology (``layers/functional/layers/conv2d_3/vars/0``)
identifies layers by class and number: layers of one class are ordered, those of different classes
are not. `match_in_order` gets that order from the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.errors import InputError
from mobilette.formats.file_layers import Weights
from mobilette.formats.keras.layers import KerasLayer

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
            raise InputError(f"layer {layer.name!r} has no {parameter} in the file")
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
                raise InputError(
                    f"layer {layer.name!r} has {len(parameters)} arrays in the file; "
                    f"{len(names)} are expected"
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
        raise InputError(f"layer {layer.name!r} normalises something else than channels")
    epsilon = float(layer.option("epsilon", 1e-3))
    if not 0 < epsilon < 1:
        raise InputError(f"layer {layer.name!r} has epsilon {epsilon:g}; 0 to 1 are expected")
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
                "whose order is not known; save the whole model: model.save('model.keras')"
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
        raise InputError(f"{where}: no weights of a Keras model in it")
    found.sort(key=lambda entry: (list(CLASSES).index(entry[0]), entry[1]))
    return [layer for _, _, layer in found]


Numbers = NDArray[np.float64]

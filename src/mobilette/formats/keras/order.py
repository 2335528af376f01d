"""Matches Keras weights without a topology in order of execution.

keras.applications publishes its ImageNet weights in this form. Layer names differ between versions
and say nothing about padding or activations, so kernels are matched in order with the layers of the
`Arch`, every shape is checked, and Keras' conventions are assumed (TensorFlow's padding, epsilon
1e-3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, FlattenLayer, LinearLayer, NormLayer, Shape
from mobilette.arch.rows import Block, Conv
from mobilette.errors import InputError
from mobilette.formats.file_layers import NORM, FileLayer, Weights
from mobilette.formats.keras.weights import PARAMETERS, LayerWeights
from mobilette.formats.matching import norm_tensors

EPSILON = 1e-3
KERNELS = ("kernel", "depthwise_kernel")


def match_in_order(
    weights: Sequence[LayerWeights], arch: Arch, *, where: str
) -> tuple[Arch, dict[str, Tensor]]:
    """Return ``arch`` with Keras' conventions, and its weights."""
    if any(isinstance(row, Block) and sum(map(bool, row.paths)) > 1 for row in arch.rows):
        raise InputError(
            f"{where}: weights without a topology; the order of {arch.name}'s parallel layers is "
            "not known: save the whole model in Keras (model.save)"
        )
    ours = _with_conventions(arch)
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


def _with_conventions(arch: Arch) -> Arch:
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
        raise _fault(where, found.name, kernel, layer.name, wanted)
    bias = found.parameters.get("bias")
    needs_bias = isinstance(layer, LinearLayer) or layer.bias
    if (bias is None) == needs_bias or (bias is not None and bias.shape != layer.shape[:1]):
        raise InputError(f"{where}: layer {found.name!r} has another bias than {layer.name}")
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


def _fault(where: str, name: str, kernel: Weights, ours: str, wanted: Shape) -> InputError:
    return InputError(
        f"{where}: layer {name!r} has a kernel of shape {kernel.shape}, but {ours} needs {wanted}"
    )

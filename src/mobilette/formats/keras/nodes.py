"""Keras layers as nodes, one by one, and what of a layer's options is not read."""

from __future__ import annotations

import numpy as np

from mobilette.errors import InputError
from mobilette.formats.graph import NO_PADDING, ConvNode, Padding, PadNode, PoolNode
from mobilette.formats.keras.layers import KerasLayer
from mobilette.formats.keras.weights import RemainingWeights, kernel


def conv_node(layer: KerasLayer, source: str, weights: RemainingWeights) -> ConvNode:
    """Return a convolution or linear layer that reads ``source``.

    Raises:
        InputError: its weights are not there or of other shapes, or it is dilated.
    """
    weight, groups = kernel(layer, weights)
    bias = None
    if layer.option("use_bias", True):
        bias = weights.take(layer, "bias", (len(weight),))
    if layer.size("dilation_rate", 1) != 1:
        raise InputError(f"layer {layer.name!r} has a dilation, which no network here has")
    return ConvNode(
        name=layer.name,
        inputs=(source,),
        weight=np.ascontiguousarray(weight),
        bias=bias,
        stride=layer.size("strides", 1),
        groups=groups,
        padding=_padding(layer),
        linear=layer.kind == "Dense",
    )


def pad_node(layer: KerasLayer, source: str) -> PadNode:
    """Return zeros around what ``source`` gives.

    Raises:
        InputError: they are less than none.
    """
    (top, bottom), (left, right) = (
        (side, side) if isinstance(side, int) else tuple(side) for side in layer.pair("padding", 0)
    )
    around = (int(top), int(bottom), int(left), int(right))
    if min(around) < 0:
        raise InputError(f"layer {layer.name!r} pads {around} pixels")
    return PadNode(name=layer.name, inputs=(source,), padding=around)


def pool_node(layer: KerasLayer, source: str) -> PoolNode:
    """Return a pool that reads ``source``."""
    side, stride = 0, 1
    if layer.kind != "GlobalAveragePooling2D":
        side = layer.size("pool_size", 2)
        stride = side if layer.option("strides") is None else layer.size("strides")
    return PoolNode(
        name=layer.name,
        inputs=(source,),
        function="max" if layer.kind == "MaxPooling2D" else "average",
        kernel=side,
        stride=stride,
        padding=_padding(layer),
    )


def check_kind(layer: KerasLayer) -> None:
    """Raise `InputError` for a layer that holds code, is quantised, or has its channels first."""
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


def check_reshape(layer: KerasLayer) -> None:
    """Raise `InputError` for a reshape that does more than flatten one pixel."""
    shape = layer.option("target_shape", ())
    if sum(size != 1 for size in shape) > 1:
        raise InputError(f"layer {layer.name!r} reshapes to {shape}")


def _padding(layer: KerasLayer) -> Padding:
    padding = layer.option("padding", "valid")
    if padding not in ("same", "valid"):
        raise InputError(f"layer {layer.name!r} has padding {padding!r}")
    return "same" if padding == "same" else NO_PADDING

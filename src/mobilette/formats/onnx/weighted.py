"""Handlers of the operators with weights.

Source: the operators' definitions (onnx.ai/onnx/operators). Shapes are without the batch.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from mobilette.arch.primitives import LinearLayer
from mobilette.errors import InputError
from mobilette.formats.file_layers import NO_PADS, NORM, Pads, Weights
from mobilette.formats.onnx.nodes import Node
from mobilette.formats.onnx.state import State, View, in_layers_order
from mobilette.formats.values import Affine, Step, Value


def name_of(state: State, node: Node) -> str:
    """Return the name of the layer that ``node`` becomes."""
    return state.values.unique(node.name)


def made_by(state: State, layer: str, like: View | None = None) -> View:
    """Return the output of ``layer`` as a map or, if given, in the order of ``like``."""
    shape = state.values.shape_of(layer)
    if like is None:
        return View(value=Value(layer=layer), shape=shape)
    return View(value=Value(layer=layer), shape=like.shape, order=like.order)


def pads_of(node: Node) -> Pads:
    """Return the zeros around a map that a convolution or pool adds."""
    top, left, bottom, right = _four(node.integers("pads", [0] * 4))
    if node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID", "SAME_UPPER"):
        raise InputError("its auto_pad is neither NOTSET, VALID nor SAME_UPPER")
    if min(top, left, bottom, right) < 0:
        raise InputError("its pads are below 0")
    return (top, bottom, left, right) if node.text("auto_pad", "NOTSET") == "NOTSET" else NO_PADS


def sum_of(first: Pads, second: Pads) -> Pads:
    """Return both paddings together."""
    top, bottom, left, right = (a + b for a, b in zip(first, second, strict=True))
    return top, bottom, left, right


def _four(numbers: list[int]) -> list[int]:
    if len(numbers) != 4:
        raise InputError(f"it has {len(numbers)} pads; maps of height and width have 4")
    return numbers


def is_same(node: Node) -> bool:
    """Whether the padding is TensorFlow's ``SAME``."""
    return node.text("auto_pad", "NOTSET") == "SAME_UPPER"


def convolution(state: State, node: Node) -> View:
    """Read Conv; a 1x1 convolution of the image without mixing colours is its scaling."""
    source, weight_name, bias_name = node.inputs_of(2, 3)
    weight = state.constants.weights(weight_name)
    if weight.ndim != 4 or node.integers("kernel_shape", list(weight.shape[2:])) != list(
        weight.shape[2:]
    ):
        raise InputError(f"its weights are of shape {weight.shape}; (out, in, side, side) expected")
    bias = state.constants.weights(bias_name) if bias_name else None
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"a bias of shape {bias.shape} for {len(weight)} channels")
    if node.pair("dilations", 1) != 1:
        raise InputError("dilation is not supported")
    view = state.read(source)
    groups = node.integer("group", 1)
    if view.value.pixels and len(weight) == view.shape[0] and weight.shape[2:] == (1, 1):
        return _scaled_image(state, view, weight[:, :, 0, 0], bias)
    layer, around = state.window(view)
    made = state.values.conv(
        name_of(state, node),
        layer,
        weight,
        bias,
        stride=node.pair("strides", 1),
        groups=max(groups, 1),
        same=is_same(node),
        before=sum_of(around, pads_of(node)),
    )
    _store(state, made, weight_name, bias_name)
    return made_by(state, made)


def _scaled_image(state: State, view: View, factors: Weights, bias: Weights | None) -> View:
    """Return the image scaled by a 1x1 convolution of (out, in / groups) ``factors``."""
    matrix = np.diag(factors[:, 0]) if factors.shape[1] == 1 else factors
    if np.count_nonzero(matrix) != len(matrix) or not matrix.diagonal().all():
        raise InputError("it mixes or swaps colours, which is not supported in front of a network")
    value = state.values.with_constant("MUL", view.value, tuple(matrix.diagonal().tolist()))
    if bias is not None:
        value = state.values.with_constant("ADD", value, tuple(bias.tolist()))
    return replace(view, value=value)


def _store(state: State, layer: str, *names: str) -> None:
    origins = (origin for name in names if name for origin in state.constants.origins[name])
    state.values.stored[layer] = tuple(dict.fromkeys(origins))


def gemm(state: State, node: Node) -> View:
    """Read Gemm, a linear layer."""
    source, weight_name, bias_name = node.inputs_of(2, 3)
    weight = state.constants.weights(weight_name)
    factors = (node.number("alpha", 1), node.number("beta", 1))
    if factors != (1, 1) or node.integer("transA", 0):
        raise InputError("alpha, beta or transA; only a plain linear layer is supported")
    if weight.ndim != 2:
        raise InputError(f"weights of shape {weight.shape}; (in, out) is expected")
    if not node.integer("transB", 0):
        weight = weight.T
    return _linear(state, node, source, weight, (weight_name, bias_name))


def matmul(state: State, node: Node) -> View:
    """Read MatMul with constant weights, a linear layer without bias."""
    source, weight_name = node.inputs_of(2, 2)
    weight = state.constants.weights(weight_name)
    if weight.ndim != 2:
        raise InputError(f"weights of shape {weight.shape}; (in, out) is expected")
    return _linear(state, node, source, weight.T, (weight_name, ""))


def _linear(state: State, node: Node, source: str, weight: Weights, names: tuple[str, str]) -> View:
    view = state.read(source)
    out, features = weight.shape
    if math.prod(view.shape) != features or view.shape[-1] != features:
        raise InputError(f"weights for {features} features, but it reads {view.shape}")
    bias: Weights | None = None
    if names[1]:
        stored = state.constants.weights(names[1])
        if stored.size not in (1, out) or stored.shape[-1:] not in ((), (1,), (out,)):
            raise InputError(f"a bias of shape {stored.shape} for {out} outputs")
        bias = np.resize(stored, out)
    channels, height, width = state.values.shape_of(view.value.layer)
    maps = in_layers_order(weight, view).reshape(out, channels, height, width)
    ordered = maps.transpose(0, 2, 3, 1).reshape(out, features)
    made = state.values.linear(name_of(state, node), state.values.plain(view.value), ordered, bias)
    _store(state, made, *names)
    return View(value=Value(layer=made), shape=(*view.shape[:-1], out))


def norm(state: State, node: Node) -> View:
    """Read BatchNormalization; behind a linear layer it is folded into it."""
    source, *names = node.inputs_of(5, 5)
    if node.integer("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise InputError("it is in training mode; export the model after model.eval()")
    arrays = dict(zip(NORM, (state.constants.weights(name) for name in names), strict=True))
    if len({array.shape for array in arrays.values()}) > 1 or arrays["weight"].ndim != 1:
        raise InputError(f"its constants have the shapes {[a.shape for a in arrays.values()]}")
    if (arrays["running_var"] < 0).any():
        raise InputError("it has variances below zero")
    epsilon = node.number("epsilon", 1e-5)
    if not 0 < epsilon < 1:
        raise InputError(f"its epsilon is {epsilon:g}")
    view = state.read(source)
    if isinstance(state.values.layer(view.value.layer), LinearLayer):
        affine = Affine.of_norm(arrays, epsilon)
        steps: tuple[Step, ...] = (
            ("MUL", tuple(affine.scale.tolist())),
            ("ADD", tuple(affine.shift.tolist())),
        )
        origins = (origin for name in names for origin in state.constants.origins[name])
        return replace(view, steps=steps, names=tuple(origins))
    made = state.values.norm(name_of(state, node), state.map(view), arrays, epsilon)
    _store(state, made, *names)
    return made_by(state, made)

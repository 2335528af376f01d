"""Handlers of ONNX's operators: each returns the tensors that a node makes; their table is here.

Source: the operators' definitions (onnx.ai/onnx/operators). Shapes are without the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from mobilette.arch.primitives import AddLayer
from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.file_layers import Ending, Join
from mobilette.formats.onnx.nodes import Node
from mobilette.formats.onnx.state import State, View, channels_last
from mobilette.formats.onnx.views import pad, reshape, slice_, split, transpose
from mobilette.formats.onnx.weighted import (
    convolution,
    gemm,
    is_same,
    made_by,
    matmul,
    name_of,
    norm,
    pads_of,
)
from mobilette.formats.values import Operation, Value

Handler = Callable[[State, Node], View | list[View]]
_NO_LIMIT = 1e30  # exporters write float32's largest number
FLOATS = (1, 10, 11, 16)  # TensorProto's codes of float32, float16, float64 and bfloat16


def average(state: State, node: Node) -> View:
    """Read GlobalAveragePool, or ReduceMean over height and width."""
    source, axes_name = node.inputs_of(1, 2)
    view = state.read(source)
    rank = len(view.shape) + 1
    if node.op == "GlobalAveragePool":
        axes = list(range(2, rank))
    elif axes_name:
        axes = state.constants.integers(axes_name)
    else:
        axes = node.integers("axes", [])
    axes = sorted({axis % rank for axis in axes if -rank <= axis < rank})
    channels, height, width = state.values.shape_of(view.value.layer)
    rows = np.moveaxis(view.ordered()[None], axes, range(-len(axes), 0)) if axes else None
    whole = np.arange(channels * height * width).reshape(channels, -1)
    if (
        rows is None
        or 0 in axes
        or not np.array_equal(
            np.sort(rows.reshape(-1, math.prod(rows.shape[rows.ndim - len(axes) :])), 1), whole
        )
    ):
        raise InputError(f"a mean over axes {axes}; only height and width are supported")
    made = state.values.average(name_of(state, node), state.values.plain(view.value))
    keeps = node.op == "GlobalAveragePool" or node.integer("keepdims", 1)
    sizes = [(1 if axis + 1 in axes else size) for axis, size in enumerate(view.shape)]
    kept = [size for axis, size in enumerate(sizes) if keeps or axis + 1 not in axes]
    return View(value=Value(layer=made), shape=tuple(kept))


def pool(state: State, node: Node) -> View:
    """Read AveragePool or MaxPool."""
    (source,) = node.inputs_of(1, 1)
    view = state.read(source)
    layer, around = state.window(view)
    if node.pair("dilations", 1) != 1 or node.integer("storage_order", 0):
        raise InputError("dilation and other orders of storage are not supported")
    kernel, stride, own = node.pair("kernel_shape", 0), node.pair("strides", 1), pads_of(node)
    _, *sides = state.values.shape_of(layer)
    free = (
        side + sum(own[at : at + 2]) + sum(around[at : at + 2]) - kernel
        for side, at in zip(sides, (0, 2), strict=True)
    )
    ceil_mode = bool(node.integer("ceil_mode", 0)) and any(each % stride > 0 for each in free)
    is_average = node.op == "AveragePool"
    if len(set(own)) > 1:
        raise InputError(f"it has {own} zeros around; only equal padding is supported")
    if is_average and (ceil_mode or (any(own) and not node.integer("count_include_pad", 0))):
        raise InputError("an average over parts of windows is not supported")
    made = state.values.pool(
        name_of(state, node),
        layer,
        "average" if is_average else "max",
        kernel=kernel,
        stride=1 if is_average and sides == [kernel, kernel] else stride,
        same=is_same(node),
        padding=own[0],
        ceil_mode=ceil_mode,
        before=around,
    )
    return made_by(state, made)


ARITHMETIC: dict[str, Operation] = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}


def _arithmetic(state: State, node: Node) -> View:
    first, second = node.inputs_of(2, 2)
    operation = ARITHMETIC[node.op]
    if node.op in ("Add", "Mul") and first in state.constants:
        first, second = second, first
    if second in state.constants:
        return state.with_constant(first, operation, second)
    if node.op not in ("Add", "Mul") or first in state.constants:
        raise InputError("it is supported with a constant behind a map only")
    views = state.read(first), state.read(second)
    return _sum_of(state, node, *views) if node.op == "Add" else _product(state, node, *views)


def _sum_of(state: State, node: Node, first: View, second: View) -> View:
    if first.shape != second.shape:
        raise InputError(f"a sum of {first.shape} and {second.shape}; the shapes must be equal")
    if first.order is not None and np.array_equal(first.ordered(), second.ordered()):
        sources = state.values.plain(first.value), state.values.plain(second.value)
        made = state.values.join(name_of(state, node), sources, "add")
        return made_by(state, made, first)
    terms: list[str] = []
    for name, source in zip(node.inputs, map(state.map, (first, second)), strict=True):
        layer = state.values.layer(source)
        # A sum of three is written as two sums
        is_part = isinstance(layer, AddLayer) and state.readers[name] == 1
        terms += layer.inputs if layer and is_part else (source,)
    return made_by(state, state.values.join(name_of(state, node), tuple(terms), "add"))


def _product(state: State, node: Node, first: View, second: View) -> View:
    """Multiply a map by itself as a part of hard-swish, or by a factor per channel."""
    larger, smaller = (first, second) if len(first.shape) >= len(second.shape) else (second, first)
    if math.prod(larger.shape) < math.prod(smaller.shape):
        larger, smaller = smaller, larger
    sizes = state.values.shape_of(larger.value.layer), state.values.shape_of(smaller.value.layer)
    pixels = math.prod(sizes[0][1:]) if math.prod(sizes[1][1:]) == 1 else 1
    try:
        fits = np.array_equal(
            np.broadcast_to(smaller.ordered(), larger.shape), larger.ordered() // pixels
        )
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"a product of {first.shape} and {second.shape}; one factor per channel is expected"
        )
    value = state.values.product(name_of(state, node), larger.value, smaller.value)
    return replace(larger, value=value)


def _concatenate(state: State, node: Node) -> View:
    views = [state.read(name) for name in node.inputs]
    rank = len(views[0].shape) + 1
    axis = node.integer("axis", 1) % rank
    how: Join = "concat"
    last = all(
        view.order is not None
        and np.array_equal(view.ordered(), channels_last(state.values.shape_of(view.value.layer)))
        for view in views
    )
    if axis == 3 and last:
        layers = tuple(state.values.plain(view.value) for view in views)
        made = state.values.join(name_of(state, node), layers, how)
        shape = state.values.shape_of(made)
        return View(
            value=Value(layer=made), shape=(*shape[1:], shape[0]), order=channels_last(shape)
        )
    if axis != 1:
        raise InputError("only a concatenation of channels is supported")
    made = state.values.join(name_of(state, node), tuple(map(state.map, views)), how)
    return made_by(state, made)


def _activation(function: Activation) -> Handler:
    def handler(state: State, node: Node) -> View:
        return _activated(state, node, function)

    return handler


def _activated(state: State, node: Node, function: Activation) -> View:
    view = state.read(node.inputs[0] if node.inputs else "")
    if view.order is not None and view.order.min() < 0:
        raise InputError("an activation of a map with zeros around it is not supported")
    return replace(view, value=state.values.activated(view.value, function))


def _hard_sigmoid(state: State, node: Node) -> View:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    if not (math.isclose(alpha, 1 / 6, rel_tol=1e-3) and beta == 0.5):
        raise InputError(f"alpha {alpha:g} and beta {beta:g}; only 1/6 and 0.5 are supported")
    return _activated(state, node, "hard_sigmoid")


def _clip(state: State, node: Node) -> View:
    _, low, high = node.inputs_of(1, 3)

    def limit(name: str, attribute: str, default: float) -> float:
        if not name:
            return node.number(attribute, default)
        array = state.constants.get(name)
        if array.size != 1:
            raise InputError(f"its {attribute} has {array.size} numbers")
        return float(array.ravel()[0])

    lowest, highest = limit(low, "min", -math.inf), limit(high, "max", math.inf)
    if lowest == 0 and (highest == 6 or highest > _NO_LIMIT):
        return _activated(state, node, "relu6" if highest == 6 else "relu")
    raise InputError(f"clips to {lowest:g} and {highest:g}; only 0 and 6 are supported")


def _ending(state: State, node: Node) -> View:
    """Read Softmax, LogSoftmax, or a Sigmoid at the network's end."""
    view = state.read(node.inputs[0] if node.inputs else "")
    rank = len(view.shape) + 1
    axis = node.integer("axis", -1) % rank
    if node.op != "Sigmoid" and view.shape[axis - 1] != math.prod(view.shape):
        raise InputError(f"it is over axis {axis} of {view.shape}; the classes are expected")
    ending: Ending = "sigmoid" if node.op == "Sigmoid" else "softmax"
    return replace(view, value=state.values.ended(view.value, ending))


def _pass(state: State, node: Node) -> View:
    if node.op == "Cast" and node.integer("to", 0) not in FLOATS:
        raise InputError("it makes integers of a map, which is not supported")
    return state.view(node.inputs[0] if node.inputs else "")


HANDLERS: Mapping[str, Handler] = {
    "Conv": convolution,
    "BatchNormalization": norm,
    "Gemm": gemm,
    "MatMul": matmul,
    "Relu": _activation("relu"),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _activation("hard_swish"),
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _ending,
    "LogSoftmax": _ending,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "Concat": _concatenate,
    "GlobalAveragePool": average,
    "ReduceMean": average,
    "AveragePool": pool,
    "MaxPool": pool,
    "Pad": pad,
    "Split": split,
    "Slice": slice_,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Identity": _pass,
    "Dropout": _pass,
    "Cast": _pass,
}

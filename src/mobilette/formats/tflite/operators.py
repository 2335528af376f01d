"""Handlers of TensorFlow Lite's operators: each returns a value and its shape.

Source: the reference kernels in tensorflow/lite/kernels. Maps are (batch, height, width, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.file_layers import Ending, Weights
from mobilette.formats.tflite.schema import OperatorRecord
from mobilette.formats.tflite.state import Shape, State, check_bias_scale, is_one_pixel
from mobilette.formats.values import Operation, Value

Result = tuple[Value, Shape]


def inputs_of(operator: OperatorRecord, least: int, most: int | None = None) -> tuple[int, ...]:
    """Return the operator's ``least`` to ``most`` input tensors, -1 for omitted ones."""
    most = least if most is None else most
    if not least <= len(operator.inputs) <= most:
        raise InputError(f"it has {len(operator.inputs)} inputs, not {least} to {most}")
    return operator.inputs + (-1,) * (most - len(operator.inputs))


def _sides(state: State, index: int) -> tuple[int, int]:
    """Return the height and width of the map in tensor ``index``."""
    shape = state.shape(index)
    if len(shape) != 4:
        raise InputError(f"it reads {shape}, which is not a map (1, height, width, channels)")
    return shape[1], shape[2]


def name_for(state: State, operator: OperatorRecord) -> str:
    """Return the name of the operator's layer: that of its output."""
    return state.values.unique(state.tensor(operator.outputs[0]).name)


def made(state: State, layer: str, *, flat: bool = False) -> Result:
    """Return the output of ``layer`` as a value; ``flat``: as (1, n)."""
    channels, height, width = state.values.shape_of(layer)
    return Value(layer=layer), (1, channels) if flat else (1, height, width, channels)


def _stride(operator: OperatorRecord) -> int:
    stride, other = int(operator.options["stride_h"]), int(operator.options["stride_w"])
    if stride < 1 or stride != other:
        raise InputError(f"strides {stride} and {other}; only equal strides ≥ 1 are supported")
    return stride


def _is_same(operator: OperatorRecord) -> bool:
    code = operator.options["padding"]
    if code not in (0, 1):
        raise InputError(f"padding {code} is neither SAME (0) nor VALID (1)")
    return code == 0


def convolution(state: State, operator: OperatorRecord) -> Result:
    """Read CONV_2D or DEPTHWISE_CONV_2D."""
    source, weight_index, bias = inputs_of(operator, 2, 3)
    _sides(state, source)
    channels = state.shape(source)[3]
    weight = state.constant(weight_index)
    if weight.ndim != 4 or weight.shape[1] != weight.shape[2]:
        raise InputError(f"weights of shape {weight.shape}; only square kernels are supported")
    if operator.name == "DEPTHWISE_CONV_2D":
        if weight.shape[0] != 1 or weight.shape[3] != channels:
            raise InputError(
                f"weights of shape {weight.shape} for {channels} channels; only depth multiplier 1 "
                "is supported"
            )
        groups, weight = channels, weight.transpose(3, 0, 1, 2)
    else:
        groups, rest = divmod(channels, weight.shape[3])
        if rest or groups == 0 or weight.shape[0] % groups:
            raise InputError(f"weights of shape {weight.shape} do not fit {channels} channels")
        weight = weight.transpose(0, 3, 1, 2)
    if (operator.options["dilation_h"], operator.options["dilation_w"]) != (1, 1):
        raise InputError("dilation is not supported")
    value = state.value(source)
    name = state.values.conv(
        name_for(state, operator),
        state.values.window(value),
        weight,
        _bias(state, operator, bias, len(weight)),
        stride=_stride(operator),
        groups=groups,
        same=_is_same(operator),
        before=value.pads,
    )
    state.values.stored[name] = _names(state, weight_index, bias)
    return made(state, name)


def linear(state: State, operator: OperatorRecord) -> Result:
    """Read FULLY_CONNECTED."""
    source, weight_index, bias = inputs_of(operator, 2, 3)
    weight, shape = state.constant(weight_index), state.shape(source)
    if weight.ndim != 2 or weight.shape[1] != math.prod(shape):
        raise InputError(f"weights of shape {weight.shape} do not fit an input of shape {shape}")
    if operator.options["weights_format"] != 0:
        raise InputError("shuffled weights are not supported")
    name = state.values.linear(
        name_for(state, operator),
        state.plain(source),
        weight,
        _bias(state, operator, bias, len(weight)),
    )
    state.values.stored[name] = _names(state, weight_index, bias)
    return made(state, name, flat=len(state.shape(operator.outputs[0])) == 2)


def _names(state: State, *indices: int) -> tuple[str, ...]:
    return tuple(state.tensor(index).name for index in indices if index >= 0)


def _bias(state: State, operator: OperatorRecord, index: int, out: int) -> Weights | None:
    if index < 0:
        return None
    bias = state.constant(index)
    if bias.shape != (out,):
        raise InputError(f"a bias of shape {bias.shape} for {out} channels")
    source, weight = operator.inputs[:2]
    check_bias_scale(state.tensor(index), state.tensor(source), state.tensor(weight))
    return bias


def pool(state: State, operator: OperatorRecord) -> Result:
    """Read AVERAGE_POOL_2D or MAX_POOL_2D."""
    (source,) = inputs_of(operator, 1)
    sides = _sides(state, source)
    kernel = int(operator.options["filter_h"])
    kernels = (kernel, int(operator.options["filter_w"]))
    value = state.value(source)
    average, same = operator.name == "AVERAGE_POOL_2D", _is_same(operator)
    is_whole = average and sides == kernels != (1, 1) and not same  # whatever its strides
    if is_whole and not any(value.pads):
        return made(state, state.values.average(name_for(state, operator), state.plain(source)))
    if kernel < 1 or kernels[1] != kernel:
        raise InputError(f"a window of {kernels}; only square windows are supported")
    name = state.values.pool(
        name_for(state, operator),
        state.values.window(value),
        "average" if average else "max",
        kernel=kernel,
        stride=1 if is_whole else _stride(operator),
        same=same,
        before=value.pads,
    )
    return made(state, name)


def mean(state: State, operator: OperatorRecord) -> Result:
    """Read MEAN over height and width."""
    source, axes_index = inputs_of(operator, 2)
    _sides(state, source)
    if not state.is_constant(axes_index):
        raise InputError("its axes are not constants")
    axes = state.integers(axes_index)
    known = all(isinstance(axis, int) and -4 <= axis < 4 for axis in axes)
    if not known or sorted(axis % 4 for axis in axes) != [1, 2]:
        raise InputError(f"a mean over axes {axes}; only height and width are supported")
    name = state.values.average(name_for(state, operator), state.plain(source))
    return made(state, name, flat=len(state.shape(operator.outputs[0])) == 2)


def pad(state: State, operator: OperatorRecord) -> Result:
    """Read PAD of height and width."""
    source, amounts_index = inputs_of(operator, 2)
    height, width = _sides(state, source)
    if not state.is_constant(amounts_index) or state.tensor(amounts_index).shape != (4, 2):
        raise InputError("its amounts are not a constant (4, 2)")
    batch, (top, bottom), (left, right), channel = state.integers(amounts_index)
    if any(batch + channel) or min(top, bottom, left, right) < 0:
        raise InputError("it pads batch or channels, or less than 0; height and width are expected")
    value = state.values.padded(state.value(source), (top, bottom, left, right))
    channels = state.shape(source)[3]
    return value, (1, height + top + bottom, width + left + right, channels)


Handler = Callable[[State, OperatorRecord], Result]


def _arithmetic(state: State, operator: OperatorRecord) -> Result:
    first, second = inputs_of(operator, 2)
    if operator.name in ("ADD", "MUL") and state.is_constant(first):
        first, second = second, first
    if state.is_constant(second):
        return _with_constant(state, operator, first, second)
    if operator.name not in ("ADD", "MUL"):
        raise InputError("it is supported with a constant only")
    shapes = (state.shape(first), state.shape(second))
    larger, smaller = max(shapes, key=math.prod), min(shapes, key=math.prod)
    if operator.name == "ADD":
        if larger != smaller:
            raise InputError(f"a sum of {shapes[0]} and {shapes[1]}; the shapes must be equal")
        inputs = (state.plain(first), state.plain(second))
        return Value(layer=state.values.join(name_for(state, operator), inputs, "add")), larger
    if larger != smaller and not (is_one_pixel(smaller) and smaller[-1] == larger[-1]):
        raise InputError(
            f"a product of {shapes[0]} and {shapes[1]}; one factor per channel is expected"
        )
    name = state.tensor(operator.outputs[0]).name
    return state.values.product(name, state.value(first), state.value(second)), larger


def _with_constant(state: State, operator: OperatorRecord, source: int, constant: int) -> Result:
    shape, numbers = state.shape(source), state.constant(constant)
    if numbers.size not in (1, numbers.shape[-1] if numbers.ndim else 1):
        raise InputError(
            f"a constant of shape {numbers.shape}; one number, or one per channel, is expected"
        )
    value = state.value(source)
    if value.pixels is not None and operator.options["activation"] != 0:
        raise InputError("an activation of the input is not supported")
    operation = cast(Operation, operator.name)
    return state.values.with_constant(operation, value, tuple(numbers.ravel().tolist())), shape


def _concatenate(state: State, operator: OperatorRecord) -> Result:
    shapes = [state.shape(index) for index in inputs_of(operator, 1, len(operator.inputs))]
    rank = len(shapes[0])
    if operator.options["axis"] not in (-1, rank - 1) or len({s[:-1] for s in shapes}) != 1:
        raise InputError("only a concatenation of the channels of equally large maps is supported")
    inputs = tuple(state.plain(index) for index in operator.inputs)
    name = state.values.join(name_for(state, operator), inputs, "concat")
    return made(state, name, flat=rank == 2)


def _activation(function: Activation) -> Handler:
    def handler(state: State, operator: OperatorRecord) -> Result:
        (source,) = inputs_of(operator, 1)
        return state.values.activated(state.value(source), function), state.shape(source)

    return handler


def _pass(state: State, operator: OperatorRecord) -> Result:
    source, _ = inputs_of(operator, 1, 2)
    shape = state.shape(source)
    if operator.name in ("RESHAPE", "SQUEEZE"):
        count = math.prod(shape)
        flat = [(1, count), (1, 1, 1, count)] if is_one_pixel(shape) else [(1, count)]
        declared = state.shape(operator.outputs[0])
        shape = declared if declared in flat else shape
    return state.value(source), shape


def _ending(state: State, operator: OperatorRecord) -> Result:
    (source,) = inputs_of(operator, 1)
    beta = operator.options.get("beta", 1)
    if not np.isclose(beta, 1):
        raise InputError(f"beta {beta}; only 1 is supported")
    ending: Ending = "softmax" if operator.name == "SOFTMAX" else "sigmoid"
    return state.values.ended(state.value(source), ending), state.shape(source)


def _logistic(state: State, operator: OperatorRecord) -> Result:
    """Return a gate of squeeze-and-excitation, or the network's ending."""
    (source,) = inputs_of(operator, 1)
    is_map = len(state.shape(source)) == 4
    return (_activation("sigmoid") if is_map else _ending)(state, operator)


HANDLERS: Mapping[str, Handler] = {
    "CONV_2D": convolution,
    "DEPTHWISE_CONV_2D": convolution,
    "FULLY_CONNECTED": linear,
    "AVERAGE_POOL_2D": pool,
    "MAX_POOL_2D": pool,
    "MEAN": mean,
    "PAD": pad,
    "ADD": _arithmetic,
    "SUB": _arithmetic,
    "MUL": _arithmetic,
    "DIV": _arithmetic,
    "CONCATENATION": _concatenate,
    "RELU": _activation("relu"),
    "RELU6": _activation("relu6"),
    "HARD_SWISH": _activation("hard_swish"),
    "RESHAPE": _pass,
    "SQUEEZE": _pass,
    "QUANTIZE": _pass,
    "DEQUANTIZE": _pass,
    "SOFTMAX": _ending,
    "LOGISTIC": _logistic,
}

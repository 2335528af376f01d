"""Handlers of TensorFlow Lite's operators: each returns a value and its shape.

Operators with a window are in `mobilette.formats.tflite.window_operators`. Source: the reference
kernels in tensorflow/lite/kernels. Maps are (batch, height, width, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.tflite.schema import OperatorRecord
from mobilette.formats.tflite.state import State, Value, is_one_pixel
from mobilette.formats.tflite.window_operators import (
    Result,
    convolution,
    inputs_of,
    linear,
    made,
    mean,
    name_for,
    pad,
    pool,
)

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
    values = (state.read(first), state.read(second))
    larger = max(shapes, key=math.prod)
    if operator.name == "ADD":
        if shapes[0] != shapes[1]:
            raise InputError(f"a sum of {shapes[0]} and {shapes[1]}; the shapes must be equal")
        inputs = (values[0].plain(), values[1].plain())
        name = state.values.join(name_for(state, operator), inputs, "add")
        return Value(layer=name), larger
    smaller = min(shapes, key=math.prod)
    factors = is_one_pixel(smaller) and smaller[-1] == larger[-1]
    if shapes[0] != shapes[1] and not factors:
        raise InputError(
            f"a product of {shapes[0]} and {shapes[1]}; one factor per channel is expected"
        )
    name = state.tensor(operator.outputs[0]).name
    return state.values.product(name, *values, factors=factors), larger


def _with_constant(state: State, operator: OperatorRecord, source: int, constant: int) -> Result:
    shape, numbers = state.shape(source), state.constant(constant)
    if numbers.size not in (1, numbers.shape[-1] if numbers.ndim else 1):
        raise InputError(
            f"a constant of shape {numbers.shape}; one number, or one per channel, is expected"
        )
    pixels, value = state.pixels(source), state.value(source)
    if pixels is not None:
        if operator.options["activation"] != 0:
            raise InputError("an activation of the input is not read")
        if numbers.size not in (1, shape[-1]):
            raise InputError(f"a constant of {numbers.size} numbers for {shape[-1]} channels")
        scaled = pixels.scaled(operator.name, tuple(numbers.ravel().tolist()))
        state.scale(operator.outputs[0], scaled)
        return value, shape
    if numbers.size != 1 or operator.name == "SUB":
        raise InputError(
            "a constant for each channel, or one taken away, is read after the input only"
        )
    number = float(numbers.ravel()[0])
    if operator.name == "ADD":
        return state.values.plus(value, number), shape
    if operator.name == "DIV":
        number = 1 / number if number else 0.0
    return state.values.sixth(value, number), shape


def _concatenate(state: State, operator: OperatorRecord) -> Result:
    shapes = [state.shape(index) for index in inputs_of(operator, 1, len(operator.inputs))]
    rank = len(shapes[0])
    if operator.options["axis"] not in (-1, rank - 1) or len({s[:-1] for s in shapes}) != 1:
        raise InputError("only a concatenation of the channels of equally large maps is supported")
    inputs = tuple(state.read(index).plain() for index in operator.inputs)
    name = state.values.join(name_for(state, operator), inputs, "concat")
    return made(state, name, flat=rank == 2)


def _activation(function: Activation) -> Handler:
    def handler(state: State, operator: OperatorRecord) -> Result:
        (source,) = inputs_of(operator, 1)
        value = state.read(source)
        if function == "relu6":
            return state.values.clipped(value), state.shape(source)
        return state.values.activated(value, function), state.shape(source)

    return handler


def _pass(state: State, operator: OperatorRecord) -> Result:
    source, _ = inputs_of(operator, 1, 2)
    value, shape = state.value(source), state.shape(source)
    output = operator.outputs[0]
    declared = state.shape(output)
    if operator.name in ("RESHAPE", "SQUEEZE"):
        count = math.prod(shape)
        flat = [(1, count), (1, 1, 1, count)] if is_one_pixel(shape) else [(1, count)]
        shape = declared if declared in flat else shape
    pixels = state.pixels(source)
    if pixels is not None:
        state.scale(output, pixels)
    return value, shape


def _softmax(state: State, operator: OperatorRecord) -> Result:
    (source,) = inputs_of(operator, 1)
    beta = operator.options["beta"]
    if not np.isclose(beta, 1):
        raise InputError(f"beta {beta}; only 1 is supported")
    return Value(layer=state.read(source).plain(), form="softmax"), state.shape(source)


def _logistic(state: State, operator: OperatorRecord) -> Result:
    (source,) = inputs_of(operator, 1)
    return Value(layer=state.read(source).plain(), form="sigmoid"), state.shape(source)


HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
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
        "SOFTMAX": _softmax,
        "LOGISTIC": _logistic,
    }
)

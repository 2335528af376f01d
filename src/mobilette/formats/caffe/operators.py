"""Handlers of Caffe's layers: each returns the value of its output.

Source: src/caffe/layers of BVLC/caffe. Maps are (channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.caffe.definition import LayerRecord
from mobilette.formats.file_layers import Weights
from mobilette.formats.values import Value, Values

_MAX, _AVERAGE = 0, 1
_SUM = 1
_FLOOR = 1
_EPSILON = 1e-5


def value_of(values: Values, record: LayerRecord, inputs: list[Value], *, is_last: bool) -> Value:
    """Return the output of the layer ``record``; ``is_last``: nothing reads it.

    Raises:
        InputError: the layer is unsupported, or its weights do not fit.
    """
    if record.type in ENDINGS:
        return _ended(values, record, inputs, is_last=is_last)
    if record.type not in HANDLERS:
        listed = ", ".join([*HANDLERS, *ENDINGS])
        raise InputError(f"it is not supported; supported are {listed}")
    return HANDLERS[record.type](values, record, inputs)


def _one(values: Values, inputs: list[Value]) -> str:
    if len(inputs) != 1:
        raise InputError(f"it reads {len(inputs)} blobs, not one")
    return values.plain(inputs[0])


def _stored(values: Values, name: str, record: LayerRecord, *others: str) -> Value:
    """Note whose weights the layer ``name`` has, and return its output."""
    names = tuple(f"{record.name}.{number}" for number in range(len(record.blobs)))
    values.stored[name] = (*(x for other in others for x in values.stored.get(other, ())), *names)
    return Value(layer=name)


def _blobs(record: LayerRecord, *shapes: tuple[int, ...]) -> list[Weights]:
    """Return the layer's weights, which must have as many numbers as ``shapes``, in these shapes.

    Shapes of before 2015 have four dimensions throughout, ones in front.
    """
    found = record.blobs
    if not found:
        raise InputError("the .caffemodel has no weights of this name")
    if len(found) != len(shapes):
        raise InputError(f"{len(found)} blobs of weights; {len(shapes)} are expected")
    for blob, shape in zip(found, shapes, strict=True):
        if [n for n in blob.shape if n > 1] != [n for n in shape if n > 1]:
            raise InputError(f"weights of shape {blob.shape}; {shape} is expected")
    return [blob.reshape(shape) for blob, shape in zip(found, shapes, strict=True)]


def _window(parameters: Any, what: str, usual: int | None, least: int) -> int:
    """Return kernel, stride or pad, which must be equal in both directions."""
    one = "kernel_size" if what == "kernel" else what
    height, width = f"{what}_h", f"{what}_w"
    sides = set(getattr(parameters, one))
    if parameters.HasField(height) or parameters.HasField(width):
        sides |= {getattr(parameters, height), getattr(parameters, width)}
    if not sides and usual is not None:
        return usual
    if len(sides) != 1 or min(sides) < least:
        listed = " and ".join(map(str, sorted(sides))) or "none"
        raise InputError(f"{what} {listed}; one of {least} or more for both directions is expected")
    return int(sides.pop())


def _convolution(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    parameters = record.message.convolution_param
    source = _one(values, inputs)
    channels = values.shape_of(source)[0]
    kernel = _window(parameters, "kernel", None, 1)
    pad = _window(parameters, "pad", 0, 0)
    if set(parameters.dilation) - {1} or parameters.axis != 1:
        raise InputError("dilation, or an axis other than 1, is not supported")
    groups, out = parameters.group, parameters.num_output
    if record.type != "Convolution" and not parameters.HasField("group"):
        groups = channels  # the depthwise layers of forks
    if min(groups, out) < 1 or channels % groups or out % groups:
        raise InputError(f"{channels} to {out} channels in {groups} groups")
    shapes = [(out, channels // groups, kernel, kernel), (out,)]
    weight, *bias = _blobs(record, *shapes[: 1 + parameters.bias_term])
    name = values.conv(
        values.unique(record.name),
        source,
        weight,
        bias[0] if bias else None,
        stride=_window(parameters, "stride", 1, 1),
        groups=groups,
        before=(pad,) * 4,
    )
    return _stored(values, name, record)


def _inner_product(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    parameters = record.message.inner_product_param
    source = _one(values, inputs)
    channels, height, width = values.shape_of(source)
    out = parameters.num_output
    if parameters.transpose or parameters.axis != 1 or out < 1:
        raise InputError("only an axis of 1, without transpose, is supported")
    shapes = [(out, channels * height * width), (out,)]
    weight, *bias = _blobs(record, *shapes[: 1 + parameters.bias_term])
    # `Builder.linear` takes the inputs in the order (height, width, channels).
    ordered = weight.reshape(out, channels, height, width).transpose(0, 2, 3, 1).reshape(out, -1)
    name = values.linear(values.unique(record.name), source, ordered, bias[0] if bias else None)
    return _stored(values, name, record)


def _batch_norm(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    """Read mean and variance, which are stored as sums with the factor that divides them."""
    source = _one(values, inputs)
    channels = values.shape_of(source)[0]
    mean, variance, factor = _blobs(record, (channels,), (channels,), (1,))
    scale = np.float32(1 / factor[0] if factor[0] else 0)
    with np.errstate(over="ignore", invalid="ignore"):  # checked for finite values later
        arrays = {
            "weight": np.ones(channels, np.float32),
            "bias": np.zeros(channels, np.float32),
            "running_mean": mean * scale,
            "running_var": variance * scale,
        }
    name = values.unique(record.name)
    epsilon = float(str(np.float32(record.message.batch_norm_param.eps)))  # 1e-5, not 9.9999997e-6
    values.norm(name, source, arrays, epsilon)
    return _stored(values, name, record)


def _scale(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    """Read factors and shifts: a batch norm's where it follows one, else a norm of their own.

    With two inputs, the second one's values are the factors.
    """
    parameters = record.message.scale_param
    name = values.unique(record.name)
    if len(inputs) == 2:
        if record.blobs or parameters.axis not in (0, 1):
            raise InputError("only one factor for each channel is supported")
        sources = (values.plain(inputs[0]), values.plain(inputs[1]))
        return Value(layer=values.join(name, sources, "scale"))
    if (parameters.axis, parameters.num_axes) != (1, 1):
        raise InputError("only one factor for each channel is supported")
    source = _one(values, inputs)
    channels = values.shape_of(source)[0]
    weight, *shift = _blobs(record, *[(channels,)] * (1 + parameters.bias_term))
    bias = shift[0] if shift else np.zeros(channels, np.float32)
    before = values.layers.get(source)
    if before is None or "running_var" not in before.tensors:
        arrays = {
            "weight": weight,
            "bias": bias,
            "running_mean": np.zeros(channels, np.float32),
            "running_var": np.full(channels, 1 - _EPSILON, np.float32),
        }
        return _stored(values, values.norm(name, source, arrays, _EPSILON), record)
    norm = before.tensors
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = {**norm, "weight": norm["weight"] * weight, "bias": norm["bias"] * weight + bias}
    values.norm(name, before.layer.inputs[0], scaled, before.epsilon)
    return _stored(values, name, record, before.name)


def _pooling(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    parameters = record.message.pooling_param
    source = _one(values, inputs)
    if parameters.pool not in (_MAX, _AVERAGE):
        raise InputError("only pools of MAX and AVE are supported")
    average = parameters.pool == _AVERAGE
    name = values.unique(record.name)
    _, *sides = values.shape_of(source)
    if parameters.global_pooling:
        if not average and math.prod(sides) > 1:
            raise InputError("only an average is supported over the whole map")
        return Value(layer=values.average(name, source))
    kernel = _window(parameters, "kernel", None, 1)
    pad = _window(parameters, "pad", 0, 0)
    if pad >= kernel:
        raise InputError(f"pad {pad} for a window of {kernel}")
    made = values.pool(
        name,
        source,
        "average" if average else "max",
        kernel=kernel,
        # The average of the whole map has one position, whatever its stride.
        stride=1 if average and sides == [kernel, kernel] else _window(parameters, "stride", 1, 1),
        padding=pad,
        ceil_mode=parameters.round_mode != _FLOOR,
    )
    return Value(layer=made)


def _eltwise(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    parameters = record.message.eltwise_param
    if parameters.operation != _SUM or set(parameters.coeff) - {1}:
        raise InputError("only SUM, without other coefficients than 1, is supported")
    sources = tuple(values.plain(value) for value in inputs)
    return Value(layer=values.join(values.unique(record.name), sources, "add"))


def _concat(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    parameters = record.message.concat_param
    if (parameters.axis, parameters.concat_dim) != (1, 1):
        raise InputError("only a concatenation of channels is supported")
    sources = tuple(values.plain(value) for value in inputs)
    return Value(layer=values.join(values.unique(record.name), sources, "concat"))


def _activation(function: Activation) -> Handler:
    def handler(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
        _one(values, inputs)
        if record.type == "ReLU" and record.message.relu_param.negative_slope:
            raise InputError("a ReLU with a negative slope is not supported")
        if record.type == "Clip":
            clip = record.message.clip_param
            if (clip.min, clip.max) != (0, 6):
                raise InputError(f"a clip to {clip.min:g} to {clip.max:g}; 0 to 6 is supported")
        return values.activated(inputs[0], function)

    return handler


def _passed(values: Values, record: LayerRecord, inputs: list[Value]) -> Value:
    """Return the input of a layer that changes no value at inference: a map keeps its shape."""
    source = _one(values, inputs)
    if record.type == "Reshape":
        channels, height, width = values.shape_of(source)
        parameters = record.message.reshape_param
        sides = list(parameters.shape.dim)[1:]
        counts = [math.prod(sides[at:]) for at in range(len(sides))]
        flat = sides in ([-1], [channels * height * width])
        pixel = height == width == 1 and counts and counts[0] in (channels, 0, -1, -channels)
        if parameters.axis or parameters.num_axes != -1 or not (flat or pixel):
            raise InputError("only a reshape to one vector is supported")
    if record.type == "Flatten" and hasattr(record.message, "flatten_param"):
        parameters = record.message.flatten_param
        if (parameters.axis, parameters.end_axis) != (1, -1):
            raise InputError("only a reshape to one vector is supported")
    return inputs[0]


def _ended(values: Values, record: LayerRecord, inputs: list[Value], *, is_last: bool) -> Value:
    if record.type == "Sigmoid":
        _one(values, inputs)
        if is_last:
            return values.ended(inputs[0], "sigmoid")
        return values.activated(inputs[0], "sigmoid")
    if record.message.softmax_param.axis != 1:
        raise InputError("only a softmax over the classes is supported")
    return values.ended(inputs[0], "softmax")


ENDINGS = ("Softmax", "SoftmaxWithLoss", "Sigmoid")
Handler = Callable[[Values, LayerRecord, list[Value]], Value]
HANDLERS: Mapping[str, Handler] = {
    "Convolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "DepthwiseConvolution": _convolution,
    "InnerProduct": _inner_product,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "ReLU": _activation("relu"),
    "ReLU6": _activation("relu6"),
    "Clip": _activation("relu6"),
    "Pooling": _pooling,
    "Eltwise": _eltwise,
    "Concat": _concat,
    "Dropout": _passed,
    "Flatten": _passed,
    "Reshape": _passed,
    "Split": _passed,
}

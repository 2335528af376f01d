"""TensorFlow Lite's operators with a window: convolutions, pools, padding.

Each gives a value and the shape of its output. Source: the reference kernels in
tensorflow/lite/kernels. Maps are (batch, height, width, channels).
"""

from __future__ import annotations

import math

from mobilette.errors import InputError
from mobilette.formats.graph import NO_PADDING, ConvNode, Padding, PadNode, PoolNode, Weights
from mobilette.formats.tflite.nodes import Value
from mobilette.formats.tflite.schema import OperatorRecord
from mobilette.formats.tflite.state import Shape, State
from mobilette.formats.tflite.tensors import check_bias_scale

Result = tuple[Value, Shape]


def inputs_of(operator: OperatorRecord, least: int, most: int | None = None) -> tuple[int, ...]:
    """Return the tensors that an operator reads, -1 for those that it leaves out.

    Raises:
        InputError: they are fewer than ``least`` or more than ``most``.
    """
    most = least if most is None else most
    if not least <= len(operator.inputs) <= most:
        raise InputError(f"it has {len(operator.inputs)} inputs, not {least} to {most}")
    return operator.inputs + (-1,) * (most - len(operator.inputs))


def _map(state: State, index: int) -> tuple[int, int, int]:
    shape = state.shape(index)
    if len(shape) != 4:
        raise InputError(f"it reads {shape}, which is not a map (1, height, width, channels)")
    return shape[1], shape[2], shape[3]


def name_for(state: State, operator: OperatorRecord) -> str:
    """Return a name for the node that an operator becomes: its output's."""
    return state.nodes.unique(state.tensor(operator.outputs[0]).name)


def _stride(operator: OperatorRecord) -> int:
    stride = int(operator.options["stride_h"])
    if stride < 1 or stride != operator.options["stride_w"]:
        other = operator.options["stride_w"]
        raise InputError(f"strides {stride} and {other}; read are equal ones of at least 1")
    return stride


def _padding(operator: OperatorRecord) -> Padding:
    code = operator.options["padding"]
    if code not in (0, 1):
        raise InputError(f"padding {code} is neither SAME (0) nor VALID (1)")
    return "same" if code == 0 else NO_PADDING


def _extent(size: int, kernel: int, stride: int, padding: Padding) -> int:
    return -(-size // stride) if padding == "same" else (size - kernel) // stride + 1


def convolution(state: State, operator: OperatorRecord) -> Result:
    """Read CONV_2D or DEPTHWISE_CONV_2D.

    Raises:
        InputError: it does what no node stands for, or its weights do not fit.
    """
    source, weight_index, bias = inputs_of(operator, 2, 3)
    height, width, channels = _map(state, source)
    weight = state.constant(weight_index)
    if weight.ndim != 4 or weight.shape[1] != weight.shape[2]:
        raise InputError(f"weights of shape {weight.shape}; read are square kernels")
    if operator.name == "DEPTHWISE_CONV_2D":
        if weight.shape[0] != 1 or weight.shape[3] != channels:
            raise InputError(
                f"weights of shape {weight.shape} for {channels} channels; depth multiplier 1 is"
                " read"
            )
        groups, weight = channels, weight.transpose(3, 0, 1, 2)
    else:
        groups, rest = divmod(channels, weight.shape[3])
        if rest or groups == 0 or weight.shape[0] % groups:
            raise InputError(f"weights of shape {weight.shape} do not fit {channels} channels")
        weight = weight.transpose(0, 3, 1, 2)
    if (operator.options["dilation_h"], operator.options["dilation_w"]) != (1, 1):
        raise InputError("dilation; read are convolutions without")
    stride, padding = _stride(operator), _padding(operator)
    kernel, out = weight.shape[2], len(weight)
    node = ConvNode(
        name=name_for(state, operator),
        inputs=(state.read(source).plain(),),
        weight=weight,
        bias=_bias(state, operator, bias, out),
        stride=stride,
        groups=groups,
        padding=padding,
    )
    rows, columns = (_extent(size, kernel, stride, padding) for size in (height, width))
    return state.nodes.add(node, tensors=_names(state, weight_index, bias)), (1, rows, columns, out)


def linear(state: State, operator: OperatorRecord) -> Result:
    """Read FULLY_CONNECTED.

    Raises:
        InputError: it does what no node stands for, or its weights do not fit.
    """
    source, weight_index, bias = inputs_of(operator, 2, 3)
    weight, shape = state.constant(weight_index), state.shape(source)
    if weight.ndim != 2 or weight.shape[1] != math.prod(shape):
        raise InputError(f"weights of shape {weight.shape} do not fit an input of shape {shape}")
    if operator.options["weights_format"] != 0:
        raise InputError("its weights are shuffled; that is not read")
    out = len(weight)
    node = ConvNode(
        name=name_for(state, operator),
        inputs=(state.read(source).plain(),),
        weight=weight.reshape(*weight.shape, 1, 1),
        bias=_bias(state, operator, bias, out),
        linear=True,
    )
    kept = len(state.shape(operator.outputs[0])) == 4
    return state.nodes.add(node, tensors=_names(state, weight_index, bias)), (
        1,
        1,
        1,
        out,
    ) if kept else (1, out)


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
    """Read AVERAGE_POOL_2D or MAX_POOL_2D.

    Raises:
        InputError: it does what no node stands for, or its weights do not fit.
    """
    (source,) = inputs_of(operator, 1)
    height, width, channels = _map(state, source)
    kernel = int(operator.options["filter_h"])
    kernels = (kernel, int(operator.options["filter_w"]))
    padding, average = _padding(operator), operator.name == "AVERAGE_POOL_2D"
    value = state.read(source)
    if average and kernels == (height, width) and padding == NO_PADDING and kernel > 1:
        node = PoolNode(name=name_for(state, operator), inputs=(value.plain(),), function="average")
        return state.nodes.add(node), (1, 1, 1, channels)
    stride = _stride(operator)
    if kernel < 1 or kernels[1] != kernel:
        raise InputError(f"a window of {kernels}; read are square ones and the whole map")
    rows, columns = (_extent(size, kernel, stride, padding) for size in (height, width))
    if kernel == stride == 1:
        return value, (1, rows, columns, channels)
    overlap = any((n - 1) * stride + kernel > m for n, m in ((rows, height), (columns, width)))
    if average and padding == "same" and overlap:
        raise InputError("an average of windows that reach over the edge is not read")
    node = PoolNode(
        name=name_for(state, operator),
        inputs=(value.plain(),),
        function="average" if average else "max",
        kernel=kernel,
        stride=stride,
        padding=padding,
    )
    return state.nodes.add(node), (1, rows, columns, channels)


def mean(state: State, operator: OperatorRecord) -> Result:
    """Read MEAN over height and width.

    Raises:
        InputError: it does what no node stands for, or its weights do not fit.
    """
    source, axes_index = inputs_of(operator, 2)
    _, _, channels = _map(state, source)
    if not state.is_constant(axes_index):
        raise InputError("its axes are not constants")
    axes = state.constants.integers(axes_index)
    if any(not isinstance(axis, int) or not -4 <= axis < 4 for axis in axes) or sorted(
        axis % 4 for axis in axes
    ) != [1, 2]:
        raise InputError(f"a mean over axes {axes}; read is that over height and width")
    node = PoolNode(
        name=name_for(state, operator), inputs=(state.read(source).plain(),), function="average"
    )
    kept = len(state.shape(operator.outputs[0])) == 4
    return state.nodes.add(node), (1, 1, 1, channels) if kept else (1, channels)


def pad(state: State, operator: OperatorRecord) -> Result:
    """Read PAD of height and width.

    Raises:
        InputError: it does what no node stands for, or its weights do not fit.
    """
    source, amounts_index = inputs_of(operator, 2)
    height, width, channels = _map(state, source)
    if not state.is_constant(amounts_index) or state.tensor(amounts_index).shape != (4, 2):
        raise InputError("its amounts are not a constant (4, 2)")
    batch, (top, bottom), (left, right), channel = state.constants.integers(amounts_index)
    if any(batch + channel) or min(top, bottom, left, right) < 0:
        raise InputError("it pads batch or channels, or less than 0; read are height and width")
    node = PadNode(
        name=name_for(state, operator),
        inputs=(state.read(source).plain(),),
        padding=(top, bottom, left, right),
    )
    return state.nodes.add(node), (1, height + top + bottom, width + left + right, channels)

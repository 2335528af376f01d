"""Reads TensorFlow Lite files: float, quantised, or with quantised weights."""

from __future__ import annotations

from pathlib import Path

from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.files import read_bytes
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.tflite.operators import HANDLERS
from mobilette.formats.tflite.schema import ModelRecord, OperatorRecord, read_model
from mobilette.formats.tflite.state import State, is_one_pixel, value_range

_LARGEST = 2**30  # bytes; VGG-19 in float32 has 575 million
_ACTIVATIONS: dict[int, Activation] = {0: "none", 1: "relu", 3: "relu6"}
_CLIPPING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD")
_PASSING = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "SOFTMAX", "LOGISTIC")
_BYTES = ("int8", "uint8")


def read_tflite(path: Path) -> FileNetwork:
    """Read a TensorFlow Lite file.

    Weights and biases are dequantised. An activation that a quantised file expresses only as the
    output range of a convolution or sum becomes a layer; so do hard-sigmoid and hard-swish made of
    several operators. Scaling right after the input becomes the `Preprocess`, whose geometry the
    file does not state; an unscaled float input has none.

    Raises:
        InputError: the file cannot be read, is damaged, or has unsupported operators.
    """
    content = read_bytes(path, limit=_LARGEST)
    try:
        return _graph(read_model(content), where=str(path), size=len(content))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _graph(model: ModelRecord, *, where: str, size: int) -> FileNetwork:
    for operator in model.operators:
        if operator.name not in HANDLERS:
            raise InputError(f"{operator} is not supported; supported are {', '.join(HANDLERS)}")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        counts = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise InputError(f"{counts}; a classifier has one of each")
    state = State(model, most=size)
    state.start(model.inputs[0])
    ending = _ending(model)
    hidden = 0
    for operator in model.operators:
        try:
            hidden += _apply(state, operator, ending)
        except InputError as error:
            raise InputError(f"{operator}: {error}") from None
    shape = state.shape(model.outputs[0])
    if not is_one_pixel(shape):
        raise InputError(f"its output is {shape}; a classifier's is (1, classes)")
    output, how = state.values.logits(state.value(model.outputs[0]))
    layers = state.values.leading_to(output)
    if not layers:
        raise InputError("its output is its input")
    tensors, unused = state.weights(model.operators, {layer.name for layer in layers})
    return FileNetwork(
        where=where,
        layers=layers,
        output=output,
        shape=state.values.shape,
        ending=how,
        preprocess=state.values.preprocess(),
        tensors=tensors,
        unused=unused,
        remarks=_remarks(model, set(tensors) - set(unused), hidden),
    )


def _apply(state: State, operator: OperatorRecord, ending: set[int]) -> bool:
    """Apply one operator; return whether its activation was found only in its output range."""
    if len(operator.outputs) != 1:
        raise InputError(f"it has {len(operator.outputs)} outputs, not one")
    (output,) = operator.outputs
    state.check_free(output)
    for index in operator.inputs:
        if index >= 0 and not state.is_constant(index):
            state.value(index)
    source = operator.inputs[0] if operator.inputs else -1
    if operator.name in ("QUANTIZE", "DEQUANTIZE") and state.is_constant(source):
        state.copy(output, source)
        return False
    value, shape = HANDLERS[operator.name](state, operator)
    if state.shape(output) != shape:
        raise InputError(f"its output is {state.shape(output)}; its inputs give {shape}")
    code = int(operator.options.get("activation", 0))
    if code not in _ACTIVATIONS:
        raise InputError(
            f"fused activation {code}; only none (0), ReLU (1) and ReLU6 (3) are supported"
        )
    function = _ACTIVATIONS[code]
    hidden = function == "none" and operator.name in _CLIPPING and output not in ending
    if hidden:
        function = _hidden_activation(state, operator)
    state.write(output, state.values.activated(value, function))
    return hidden and function != "none"


def _hidden_activation(state: State, operator: OperatorRecord) -> Activation:
    """Return the activation implied by a quantised output, which cannot exceed its range."""
    found = value_range(state.tensor(operator.outputs[0]))
    if found is None or found[0] != 0:
        return "none"
    if operator.name == "ADD":
        ranges = [value_range(state.tensor(index)) for index in operator.inputs]
        if all(known is not None and known[0] >= 0 for known in ranges):
            return "none"  # the inputs are not negative anyway
    return "relu6" if abs(found[1] - 6) <= 0.02 * 6 else "relu"


def _ending(model: ModelRecord) -> set[int]:
    """Return the tensors that hold the logits; their ranges do not imply activations."""
    ending = set(model.outputs)
    for operator in reversed(model.operators):
        if operator.name in _PASSING and ending.intersection(operator.outputs):
            ending.update(operator.inputs[:1])
    return ending


def _remarks(model: ModelRecord, used: set[str], hidden: int) -> tuple[str, ...]:
    remarks = []
    count = sum(tensor.name in used and tensor.kind in _BYTES for tensor in model.tensors)
    if count:
        remarks.append(f"{count} tensors of 8-bit weights are dequantised to float32")
    if hidden:
        remarks.append(f"{hidden} activations were inferred from the ranges of quantised outputs")
    return tuple(remarks)

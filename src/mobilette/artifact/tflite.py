"""`.tflite` files: checked before an engine written in C sees them, and the contract inside."""

from __future__ import annotations

from math import prod

import numpy as np

from mobilette.artifact.contract import METADATA_KEY
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.formats.tflite.schema import ModelRecord, TensorRecord, read_model

_LARGEST = 2**28  # elements of one tensor
_MOST_METADATA = 100
_LONGEST_CONTRACT = 2**26
_BYTES = {"float32": 4, "float16": 2, "int32": 4, "int16": 2, "int64": 8, "int8": 1, "uint8": 1}
# What `mobilette.exporters` writes, with the numbers of inputs: other operators are not met.
_INPUTS = {
    "ADD": (2,),
    "AVERAGE_POOL_2D": (1,),
    "CAST": (1,),
    "CONCATENATION": range(1, 50),
    "CONV_2D": (3,),
    "DEPTHWISE_CONV_2D": (3,),
    "DEQUANTIZE": (1,),
    "FULLY_CONNECTED": (2, 3),
    "HARD_SWISH": (1,),
    "MAXIMUM": (2,),
    "MAX_POOL_2D": (1,),
    "MEAN": (2,),
    "MINIMUM": (2,),
    "MUL": (2,),
    "PAD": (2,),
    "PADV2": (3,),
    "QUANTIZE": (1,),
    "RELU": (1,),
    "RELU6": (1,),
    "RESHAPE": (1, 2),
    "SLICE": (3,),
    "STRIDED_SLICE": (4,),
    "SUM": (2,),
    "TRANSPOSE": (2,),
}


def check_tflite(content: bytes) -> ModelRecord:
    """Return what the ``.tflite`` file ``content`` says, all of it checked.

    Every offset lies in the file, every constant is as long as its shape says, every operator is of
    a kind that we write and reads what was written before it.

    Raises:
        InputError: it is no such file, cut short, or says what no file of ours says.
    """
    if content[4:8] != b"TFL3":
        raise InputError("not a TensorFlow Lite file (its header is another one), or cut short")
    with needs("litert", "a TensorFlow Lite file"):
        import flatbuffers  # noqa: F401
    record = read_model(content)
    for tensor in record.tensors:
        _check_tensor(tensor)
    ready = {index for index, tensor in enumerate(record.tensors) if len(tensor.data)}
    ready.update(record.inputs)
    for operator in record.operators:
        if len(operator.inputs) not in _INPUTS.get(operator.name, ()):
            raise InputError(f"{operator} with {len(operator.inputs)} inputs is not read")
        if len(operator.outputs) != 1 or operator.outputs[0] in ready:
            raise InputError(f"{operator} does not write one tensor of its own")
        needed = set(operator.inputs)
        if operator.name == "FULLY_CONNECTED":
            needed -= {-1}  # a bias of zeros is left out
        missing = sorted(needed - ready)
        if missing:
            raise InputError(f"{operator} reads tensor {missing[0]}, which nothing wrote")
        ready.update(operator.outputs)
    ends = (record.inputs, record.outputs)
    if any(len(end) != 1 for end in ends) or not ready.issuperset(record.outputs):
        raise InputError("a model with one input and one output is expected")
    return record


def contract_inside(content: bytes) -> str | None:
    """Return the text of the contract in the checked file ``content``, or ``None``.

    Raises:
        InputError: the metadata is damaged.
    """
    from mobilette.formats.tflite.flatbuffer import root

    model = root(content, identifier=b"TFL3")
    buffers = model.tables(12, most=5_000)
    for entry in model.tables(16, most=_MOST_METADATA):
        if entry.text(4) == METADATA_KEY:
            buffer = entry.integer(6, "Uint32")
            data = buffers[buffer].vector(4, "Uint8") if buffer < len(buffers) else np.empty(0)
            if not 0 < len(data) < _LONGEST_CONTRACT:
                raise InputError("the contract inside is damaged")
            return bytes(data).decode(errors="replace")
    return None


def _check_tensor(tensor: TensorRecord) -> None:
    width = _BYTES.get(tensor.kind)
    if width is None or tensor.sparse:
        raise InputError(f"tensor {tensor.name!r} is of {tensor.kind}, or sparse; not read")
    if any(size < 1 for size in tensor.shape) or prod(tensor.shape) > _LARGEST:
        raise InputError(f"tensor {tensor.name!r} is of shape {tensor.shape}")
    if len(tensor.data) not in (0, prod(tensor.shape) * width):
        raise InputError(
            f"tensor {tensor.name!r} of shape {tensor.shape} has {len(tensor.data):,} bytes"
        )
    found = tensor.quantisation
    if found is None:
        return
    slices = tensor.shape[found.dimension] if 0 <= found.dimension < len(tensor.shape) else 0
    good = np.isfinite(found.scale).all() and (found.scale > 0).all()
    if not good or len(found.scale) not in (1, slices):
        raise InputError(f"tensor {tensor.name!r} is quantised in a way that is not read")

"""The part of TensorFlow Lite's schema that we read, as records.

Source: tensorflow/lite/schema/schema.fbs, version 3. Slots are vtable offsets: 4 + 2 x the number
of the field in its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilette.errors import InputError
from mobilette.extras import needs

if TYPE_CHECKING:
    from mobilette.formats.tflite.flatbuffer import Number, Table

_VERSION = 3
_MOST = 5_000  # tensors, operators, buffers; MobileNet V3 has about 230
_MOST_INPUTS = 50
_MOST_DIMENSIONS = 8

# In order of their codes, from 0.
_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM
CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM
CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE
SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW
ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK
REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR
LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS
WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH
"""
_OPERATORS = _NAMES.split()

_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 7: "int16", 9: "int8"}


class _Slot(NamedTuple):
    place: int
    kind: Number
    default: float = 0


_WINDOW = {
    "padding": _Slot(4, "Int8"),
    "stride_w": _Slot(6, "Int32"),
    "stride_h": _Slot(8, "Int32"),
}
_ACTIVATION = {"activation": _Slot(4, "Int8")}
_POOL = {
    **_WINDOW,
    "filter_w": _Slot(10, "Int32"),
    "filter_h": _Slot(12, "Int32"),
    "activation": _Slot(14, "Int8"),
}

# Tag in the union BuiltinOptions, and slots; operators without an entry need no options.
_OPTIONS: Mapping[str, tuple[int, Mapping[str, _Slot]]] = {
    "CONV_2D": (
        1,
        {
            **_WINDOW,
            "activation": _Slot(10, "Int8"),
            "dilation_w": _Slot(12, "Int32", 1),
            "dilation_h": _Slot(14, "Int32", 1),
        },
    ),
    "DEPTHWISE_CONV_2D": (
        2,
        {
            **_WINDOW,
            "depth_multiplier": _Slot(10, "Int32"),
            "activation": _Slot(12, "Int8"),
            "dilation_w": _Slot(14, "Int32", 1),
            "dilation_h": _Slot(16, "Int32", 1),
        },
    ),
    "AVERAGE_POOL_2D": (5, _POOL),
    "MAX_POOL_2D": (5, _POOL),
    "FULLY_CONNECTED": (8, {**_ACTIVATION, "weights_format": _Slot(6, "Int8")}),
    "SOFTMAX": (9, {"beta": _Slot(4, "Float32")}),
    "CONCATENATION": (10, {"axis": _Slot(4, "Int32"), "activation": _Slot(6, "Int8")}),
    "ADD": (11, _ACTIVATION),
    "MUL": (21, _ACTIVATION),
    "SUB": (28, _ACTIVATION),
    "DIV": (29, _ACTIVATION),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantisation:
    """Real value = (stored - zero_point) x scale, per tensor or per slice.

    Attributes:
        scale: not checked to be positive or finite.
        zero_point: same length as ``scale``.
        dimension: the sliced dimension, if there are several scales.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    dimension: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorRecord:
    """A tensor as declared; the fields are not checked against each other.

    Attributes:
        name: unique in the file.
        kind: the element type, such as ``"int8"``.
        shape: as in the file; ``dynamic`` marks sizes that are not fixed.
        data: the bytes of a constant; empty for an operator's output.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dynamic: tuple[bool, ...]
    data: NDArray[np.uint8]
    quantisation: Quantisation | None
    sparse: bool

    def __str__(self) -> str:
        return f"tensor {self.name!r:.60}"


@dataclass(frozen=True, kw_only=True, eq=False)
class OperatorRecord:
    """An operator; its tensor indices (-1: omitted) and its code are valid."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int | float]

    def __str__(self) -> str:
        return f"operator {self.index} ({self.name})"


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelRecord:
    """The file's single graph; ``inputs`` and ``outputs`` are valid tensor indices."""

    tensors: tuple[TensorRecord, ...]
    operators: tuple[OperatorRecord, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_model(content: bytes) -> ModelRecord:
    """Return the content of a TensorFlow Lite file."""
    with needs("weights", "reading it"):
        from mobilette.formats.tflite.flatbuffer import root
    model = root(content, identifier=b"TFL3")
    version = model.integer(4, "Uint32")
    if version != _VERSION:
        raise InputError(f"version {version} of the format; only {_VERSION} is supported")
    graphs = model.tables(8, most=_MOST)
    if len(graphs) != 1:
        raise InputError(f"{len(graphs)} graphs; a classifier has one")
    graph = graphs[0]
    tensors = _tensors(graph, model.tables(12, most=_MOST))
    codes = [_operator_name(code) for code in model.tables(6, most=_MOST)]
    operators = graph.tables(10, most=_MOST)
    return ModelRecord(
        tensors=tensors,
        operators=tuple(
            _operator(operator, index, codes, len(tensors))
            for index, operator in enumerate(operators)
        ),
        inputs=_indices(graph, 6, len(tensors), "the graph"),
        outputs=_indices(graph, 8, len(tensors), "the graph"),
    )


def _tensors(graph: Table, buffers: list[Table]) -> tuple[TensorRecord, ...]:
    taken: set[str] = set()
    tensors: list[TensorRecord] = []
    for index, tensor in enumerate(graph.tables(4, most=_MOST)):
        name = tensor.text(10) or f"tensor {index}"
        if name in taken:
            name = f"{name} (tensor {index})"
        taken.add(name)
        buffer = tensor.integer(8, "Uint32")
        if buffer >= len(buffers):
            raise InputError(f"tensor {index} is in buffer {buffer} of {len(buffers)}")
        if tensor.integer(24, "Uint32") or buffers[buffer].integer(6, "Uint64") > 1:
            raise InputError(
                f"tensor {index} lies outside of the flatbuffer, which is not supported"
            )
        kind = tensor.integer(6, "Int8")
        shape = _shape(tensor, 4, index)
        signature = _shape(tensor, 18, index)
        tensors.append(
            TensorRecord(
                name=name,
                kind=_TYPES.get(kind, f"type {kind}"),
                shape=shape,
                dynamic=tuple(size < 0 for size in signature or shape),
                data=buffers[buffer].vector(4, "Uint8"),
                quantisation=_quantisation(tensor, index),
                sparse=tensor.has(16),
            )
        )
    return tuple(tensors)


def _shape(tensor: Table, slot: int, index: int) -> tuple[int, ...]:
    shape = tensor.vector(slot, "Int32")
    if len(shape) > _MOST_DIMENSIONS:
        raise InputError(f"tensor {index} has {len(shape):,} dimensions")
    return tuple(shape.tolist())


def _quantisation(tensor: Table, index: int) -> Quantisation | None:
    found = tensor.table(12)
    scale: NDArray[Any] = np.empty(0) if found is None else found.vector(8, "Float32")
    if found is None or not len(scale):
        return None
    if found.integer(12, "Uint8"):
        raise InputError(f"tensor {index} has a custom quantisation, which is not supported")
    zero_point = found.vector(10, "Int64")
    if not len(zero_point):
        zero_point = np.zeros(len(scale), np.int64)
    if len(zero_point) != len(scale):
        raise InputError(f"tensor {index}: {len(zero_point)} zero points, {len(scale)} scales")
    return Quantisation(scale=scale, zero_point=zero_point, dimension=found.integer(16, "Int32"))


def _operator_name(code: Table) -> str:
    # Codes above 127 do not fit the old field, which then holds 127.
    number = max(code.integer(4, "Int8"), code.integer(10, "Int32"))
    if not 0 <= number < len(_OPERATORS):
        return f"code {number}"
    name = _OPERATORS[number]
    return f"CUSTOM {code.text(6)!r:.40}" if name == "CUSTOM" else name


def _operator(operator: Table, index: int, codes: list[str], tensors: int) -> OperatorRecord:
    code = operator.integer(4, "Uint32")
    if code >= len(codes):
        raise InputError(f"operator {index} is of kind {code} of {len(codes)}")
    name = codes[code]
    where = f"operator {index} ({name})"
    return OperatorRecord(
        index=index,
        name=name,
        inputs=_indices(operator, 6, tensors, where, optional=True),
        outputs=_indices(operator, 8, tensors, where),
        options=_options(operator, name, where),
    )


def _indices(
    table: Table, slot: int, tensors: int, where: str, *, optional: bool = False
) -> tuple[int, ...]:
    indices = table.vector(slot, "Int32")
    if len(indices) > _MOST_INPUTS:
        raise InputError(
            f"{where} names {len(indices):,} tensors; at most {_MOST_INPUTS} are supported"
        )
    for index in indices:
        if not (-1 if optional else 0) <= index < tensors:
            raise InputError(f"{where} names tensor {index} of {tensors}")
    return tuple(indices.tolist())


def _options(operator: Table, name: str, where: str) -> dict[str, int | float]:
    if name not in _OPTIONS:
        return {}
    tag, slots = _OPTIONS[name]
    found = operator.table(12)
    if found is None or operator.integer(10, "Uint8") != tag:
        raise InputError(f"{where} has no options, or another operator's")
    return {key: found.number(*slot) for key, slot in slots.items()}

"""A TensorFlow Lite file that is written tensor by tensor and operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.rows import Activation
from mobilette.counting.latency import Precision
from mobilette.exporters.tflite_file import packed, schema

# Of int8 tensors: of activations; of a sigmoid's results, the only one that kernels accept.
SCALE, TO_ONE = (0.05, 0), (1 / 256, -128)
# Operator versions for float and for int8, where they are not 1 and 2.
_VERSIONS = {"CONV_2D": (1, 3), "DEPTHWISE_CONV_2D": (1, 3), "FULLY_CONNECTED": (1, 4)}
_VERSIONS |= {"TRANSPOSE": (4, 4), "RESHAPE": (1, 1), "HARD_SWISH": (1, 1), "CAST": (1, 1)}
_VERSIONS |= {"QUANTIZE": (1, 1)}


class TfliteGraph:
    """The tensors and operators of a file, so far; a tensor is its index.

    Maps are NHWC: float, or int8 with made-up scales.
    """

    def __init__(self, precision: Precision) -> None:
        self.types = schema()
        self.is_int8 = precision == "int8"
        kinds = self.types.TensorType
        self.kind = kinds.INT8 if self.is_int8 else kinds.FLOAT32
        self.model = self.types.ModelT()
        self.graph = self.types.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.buffers = [self.types.BufferT()]
        self.codes: dict[str, int] = {}
        self.model.operatorCodes = []

    def tensor(
        self, shape: Sequence[int], kind: int, quantised: tuple[Any, Any] | None = None
    ) -> int:
        """Add a tensor of ``kind``, with (scale, zero point) if it is ``quantised``."""
        made = self.types.TensorT()
        made.shape, made.type, made.buffer, made.hasRank = list(shape), kind, 0, True
        made.name = str(len(self.graph.tensors)).encode()
        if quantised is not None:
            steps = self.types.QuantizationParametersT()
            steps.scale = np.atleast_1d(np.float32(quantised[0]))
            steps.zeroPoint = np.atleast_1d(np.int64(quantised[1]))
            made.quantization = steps
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def map(self, shape: Sequence[int], scale: tuple[float, int] = SCALE) -> int:
        """Add a map of activations."""
        return self.tensor(shape, self.kind, scale if self.is_int8 else None)

    def constant(self, values: NDArray[Any], quantised: tuple[Any, Any] | None = None) -> int:
        """Add a tensor with values: float32, int32 or int8."""
        kinds = {np.dtype(np.float32): "FLOAT32", np.dtype(np.int32): "INT32"}
        kind = getattr(self.types.TensorType, kinds.get(values.dtype, "INT8"))
        index = self.tensor(values.shape, kind, quantised)
        buffer = self.types.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.graph.tensors[index].buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        return index

    def whole(self, *values: int) -> int:
        """Add a vector of whole numbers."""
        return self.constant(np.array(values, np.int32))

    def shape_of(self, tensor: int) -> list[int]:
        """Return the shape of a tensor."""
        shape: list[int] = self.graph.tensors[tensor].shape
        return shape

    def operator(
        self, name: str, inputs: Sequence[int], output: int, options: str = "", **values: Any
    ) -> int:
        """Add an operator with its ``options``, whose fields are ``values``; return ``output``."""
        made = self.types.OperatorT()
        made.inputs, made.outputs = list(inputs), [output]
        made.opcodeIndex = self.code(name)
        if options:
            made.builtinOptionsType = getattr(self.types.BuiltinOptions, options)
            made.builtinOptions = getattr(self.types, f"{options}T")()
            for key, value in values.items():
                setattr(made.builtinOptions, key, value)
        self.graph.operators.append(made)
        return output

    def code(self, name: str) -> int:
        """Return the index of a kind of operator."""
        if name not in self.codes:
            made = self.types.OperatorCodeT()
            made.builtinCode = getattr(self.types.BuiltinOperator, name)
            made.deprecatedBuiltinCode = min(made.builtinCode, 127)
            made.version = _VERSIONS.get(name, (1, 2))[self.is_int8]
            self.codes[name] = len(self.codes)
            self.model.operatorCodes.append(made)
        return self.codes[name]

    def fused(self, function: Activation) -> int:
        """Return the activation that an operator computes itself."""
        kinds = self.types.ActivationFunctionType
        if function == "hard_sigmoid" and not self.is_int8:
            return int(kinds.RELU6)  # then a sixth
        return int({"relu": kinds.RELU, "relu6": kinds.RELU6}.get(function, kinds.NONE))

    def activated(self, tensor: int, function: Activation) -> int:
        """Return ``tensor`` after what of its activation is an operator of its own."""
        shape = self.shape_of(tensor)
        if function == "hard_swish":
            return self.operator("HARD_SWISH", [tensor], self.map(shape))
        if function == "sigmoid":
            return self.operator("LOGISTIC", [tensor], self.map(shape, TO_ONE))
        if function == "hard_sigmoid" and not self.is_int8:
            sixth = self.constant(np.array(1 / 6, np.float32))
            return self.elementwise("MUL", [tensor, sixth], "MulOptions")
        return tensor

    def elementwise(
        self, name: str, inputs: Sequence[int], options: str, function: Activation = "none"
    ) -> int:
        """Add an operator whose output has the shape of its first input."""
        output = self.map(self.shape_of(inputs[0]))
        fused = self.fused(function)
        return self.operator(name, inputs, output, options, fusedActivationFunction=fused)

    def reshaped(self, source: int, shape: Sequence[int]) -> int:
        """Return ``source`` in another shape."""
        return self.operator("RESHAPE", [source, self.whole(*shape)], self.map(shape))

    def sliced(self, source: int, begin: Sequence[int], size: Sequence[int]) -> int:
        """Return a part of ``source``."""
        inputs = [source, self.whole(*begin), self.whole(*size)]
        return self.operator("SLICE", inputs, self.map(size))

    def packed(self) -> bytes:
        """Return the file."""
        self.model.version = 3
        self.model.subgraphs = [self.graph]
        self.model.description = b"Mobilette"
        return packed(self.model)

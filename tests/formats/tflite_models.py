"""Small TensorFlow Lite files, written with the format's own generated code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
}
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
NONE = schema.ActivationFunctionType.NONE
RELU = schema.ActivationFunctionType.RELU
RELU6 = schema.ActivationFunctionType.RELU6


class Model:
    """Builds one graph: the first tensor is the input, the last operator's output the output."""

    def __init__(self, *shape: int, kind: str = "float32", **quantisation: Any) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.operatorCodes = []
        self.model.buffers = [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors = []
        self.graph.operators = []
        self.model.subgraphs = [self.graph]
        self.random = np.random.default_rng(0)
        self.graph.inputs = [self.tensor(shape, kind=kind, **quantisation)]
        self.graph.outputs = [0]

    def tensor(
        self,
        shape: Sequence[int],
        *,
        kind: str = "float32",
        data: NDArray[Any] | None = None,
        scale: Sequence[float] | None = None,
        zero_point: Sequence[int] = (0,),
        dimension: int = 0,
    ) -> int:
        tensor = schema.TensorT()
        tensor.shape = list(shape)
        tensor.type = _TYPES[kind]
        tensor.name = f"t{len(self.graph.tensors)}"
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = list(scale)
            tensor.quantization.zeroPoint = list(zero_point)
            tensor.quantization.quantizedDimension = dimension
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, values: Any, kind: str = "float32", **quantisation: Any) -> int:
        data = np.asarray(values, kind)
        return self.tensor(data.shape, kind=kind, data=data, **quantisation)

    def noise(self, *shape: int) -> int:
        return self.constant(self.random.normal(0, 0.5, shape))

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        *,
        kind: str = "float32",
        options: str | None = None,
        scale: Sequence[float] | None = None,
        zero_point: Sequence[int] = (0,),
        **values: Any,
    ) -> int:
        """Append an operator; return its output tensor, which becomes the graph's."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs = list(inputs)
        operator.outputs = [self.tensor(shape, kind=kind, scale=scale, zero_point=zero_point)]
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                assert hasattr(operator.builtinOptions, key)
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)
        self.graph.outputs = list(operator.outputs)
        return int(operator.outputs[0])

    def conv(
        self,
        source: int,
        weight: int,
        bias: int,
        shape: Sequence[int],
        *,
        stride: int = 1,
        padding: int = SAME,
        activation: int = NONE,
        depthwise: bool = False,
        **values: Any,
    ) -> int:
        options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        if depthwise:
            values["depthMultiplier"] = 1
        return self.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [source, weight, bias],
            shape,
            options=options,
            strideW=stride,
            strideH=stride,
            padding=padding,
            fusedActivationFunction=activation,
            **values,
        )

    def simple(self, name: str, inputs: Sequence[int], shape: Sequence[int], **values: Any) -> int:
        """Append ADD, SUB, MUL or DIV."""
        return self.op(name, inputs, shape, options=f"{name.capitalize()}Options", **values)

    def content(self) -> bytes:
        return packed(self.model)

    def write(self, path: Path) -> Path:
        return write(self.model, path)


def packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def write(model: schema.ModelT, path: Path) -> Path:
    path.write_bytes(packed(model))
    return path

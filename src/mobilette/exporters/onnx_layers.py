"""ONNX files of fused layers with random weights, for timing, written in milliseconds.

A layer's latency does not depend on its weights, so nothing is trained, traced or calibrated here:
nodes are written directly, with the operators and, in int8, the quantisation (QDQ) that the
exporter and ONNX Runtime's quantiser write for the same layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobilette.arch.primitives import Shape
from mobilette.arch.rows import Activation
from mobilette.counting.fused_layers import FusedLayer, Step
from mobilette.counting.latency import Precision

OPSET, IR_VERSION = 20, 10
_OPERATORS = {
    "relu": "Relu",
    "relu6": "Clip",
    "hard_swish": "HardSwish",
    "hard_sigmoid": "HardSigmoid",
    "sigmoid": "Sigmoid",
}
_SCALE, _SHIFT = "scale", "shift"
_CORNER = "corner."  # of the outputs that keep one pixel of a map


def write_onnx_layers(
    steps: Sequence[Step],
    *,
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    precision: Precision,
) -> bytes:
    """Return the ONNX file of ``steps``.

    Args:
        steps: in order of execution.
        inputs: names and shapes, without the batch, of the maps that they read from outside:
            float32, or uint8 in int8 and for a step that normalises pixels.
        outputs: the steps whose results are outputs. Of a map only one pixel is, so that the
            engine computes it all without copying it out.
        precision: of weights and activations.
    """
    graph = _Graph(precision)
    pixels = {step.inputs[0] for step in steps if step.layer.kind == "normalise"}
    for name, shape in inputs.items():
        graph.input(name, shape, pixels=name in pixels)
    for step in steps:
        graph.step(step)
    layers = {step.name: step.layer for step in steps}
    for name in outputs:
        graph.output(name, layers[name].output if name in layers else inputs[name])
    return graph.serialised()


@cache
def _random() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, 2**20).astype(np.float32)


def noise(shape: Shape, *, inputs: int) -> NDArray[np.float32]:
    """Return weights whose results neither fade nor grow from layer to layer (He initialisation).

    Numbers that fade become denormal, with which processors are many times slower.

    Args:
        shape: of the weights.
        inputs: how many of them make one result.
    """
    return np.resize(_random(), shape) * np.float32((2 / inputs) ** 0.5)


class _Graph:
    """The nodes so far. In int8 the tensor of each map is what was quantised and dequantised."""

    def __init__(self, precision: Precision) -> None:
        self.is_int8 = precision == "int8"
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.tensors: dict[str, str] = {}  # of each step: what the next reads
        self.constant(_SCALE, np.array(0.05, np.float32))
        self.constant(_SHIFT, np.array(128, np.uint8))

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def input(self, name: str, shape: Shape, *, pixels: bool) -> None:
        kind = TensorProto.UINT8 if pixels or self.is_int8 else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, kind, (1, *shape)))
        self.tensors[name] = name
        if self.is_int8 and not pixels:
            read = self.node("DequantizeLinear", [name, _SCALE, _SHIFT], f"{name}.read")
            self.tensors[name] = read

    def output(self, name: str, shape: Shape) -> None:
        tensor = self.tensors[name]
        if len(shape) == 3 and max(shape[1:]) > 1:
            corner = {"kernel_shape": [1, 1], "strides": list(shape[1:])}
            tensor = self.node("MaxPool", [tensor], f"{_CORNER}{name}", **corner)
            tensor, shape = self.rounded(tensor), (shape[0], 1, 1)
        known = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, (1, *shape))
        self.outputs.append(known)

    def rounded(self, tensor: str) -> str:
        """Return ``tensor`` after int8, if this is an int8 graph."""
        if not self.is_int8:
            return tensor
        held = self.node("QuantizeLinear", [tensor, _SCALE, _SHIFT], f"{tensor}_QuantizeLinear")
        return self.node("DequantizeLinear", [held, _SCALE, _SHIFT], f"{tensor}_DequantizeLinear")

    def step(self, step: Step) -> None:
        layer, name = step.layer, step.name
        inputs = [self.tensors[each] for each in step.inputs]
        residual = inputs.pop() if layer.added else None
        tensor = self.layer(name, layer, inputs)
        if layer.kind != "activation":
            tensor = self.activated(
                name, tensor, layer.activation, of_linear=layer.kind == "linear"
            )
        if residual is not None:
            tensor = self.node("Add", [tensor, residual], f"{name}.sum")
            tensor = self.activated(f"{name}.sum", tensor, layer.after_add)
        self.tensors[name] = tensor

    def activated(
        self, name: str, tensor: str, function: Activation, *, of_linear: bool = False
    ) -> str:
        """Return ``tensor`` after its activation; a linear layer's own output is never rounded."""
        if function == "none":
            return tensor if of_linear else self.rounded(tensor)
        clips = function in ("relu", "relu6")
        if self.is_int8 and clips:  # the range of what is rounded clips, too
            return self.rounded(tensor)
        if not clips and not of_linear:
            tensor = self.rounded(tensor)
        inputs, attributes = [tensor], {}
        if function == "relu6":
            ends = (np.array(0, np.float32), np.array(6, np.float32))
            inputs += [self.constant(f"{name}.end.{i}", end) for i, end in enumerate(ends)]
        if function == "hard_sigmoid":
            attributes = {"alpha": 1 / 6, "beta": 0.5}
        made = self.node(_OPERATORS[function], inputs, f"{name}.activation", **attributes)
        return self.rounded(made)

    def layer(self, name: str, layer: FusedLayer, inputs: list[str]) -> str:
        """Return the tensor of ``layer`` itself, without activation, not rounded."""
        out = f"{name}.out"
        window = {
            "kernel_shape": [layer.kernel] * 2,
            "strides": [layer.stride] * 2,
            "pads": [*layer.pads],
        }
        match layer.kind:
            case "normalise":
                cast = self.rounded(self.node("Cast", inputs, f"{name}.cast", to=TensorProto.FLOAT))
                return self.conv(name, cast, (layer.output[0], layer.inputs[0][0], 1, 1), {})
            case "conv" | "depthwise" | "grouped":
                weight = (layer.output[0], layer.inputs[0][0] // layer.groups, *[layer.kernel] * 2)
                return self.conv(name, inputs[0], weight, window | {"group": layer.groups})
            case "norm":
                weight = (layer.output[0], 1, 1, 1)
                return self.conv(name, inputs[0], weight, {"group": layer.output[0]})
            case "linear":
                return self.linear(name, layer, inputs[0])
            case "max_pool":
                return self.node("MaxPool", inputs, out, **window)
            case "average_pool":
                return self.node("AveragePool", inputs, out, count_include_pad=1, **window)
            case "mean":
                return self.node("GlobalAveragePool", inputs, out)
            case "average_to":
                cells = [
                    given // made
                    for given, made in zip(layer.inputs[0][1:], layer.output[1:], strict=True)
                ]
                cells = [max(each, 1) for each in cells]
                return self.node("AveragePool", inputs, out, kernel_shape=cells, strides=cells)
            case "add":
                return self.node("Add", inputs, out)
            case "scale":
                return self.node("Mul", inputs, out)
            case "concat":
                return self.node("Concat", inputs, out, axis=1)
            case "slice":
                end = layer.begin + layer.output[0]
                return self.sliced(name, inputs[0], {1: (layer.begin, end, 1)})
            case "shuffle":
                return self.shuffled(name, layer, inputs[0])
            case "subsample":
                return self.subsampled(name, layer, inputs[0])
            case "activation":
                return self.node(_OPERATORS[layer.activation], inputs, out)
            case _:
                assert_never(layer.kind)

    def conv(self, name: str, source: str, shape: Shape, attributes: dict[str, Any]) -> str:
        inputs = [source, self.weight(f"{name}.weight", shape), self.bias(name, shape[0])]
        return self.node("Conv", inputs, f"{name}.out", **attributes)

    def weight(self, name: str, shape: Shape) -> str:
        values = noise(shape, inputs=int(np.prod(shape[1:])))
        if not self.is_int8:
            return self.constant(name, values)
        held = self.constant(
            f"{name}_quantized", (values * 127 / np.abs(values).max()).astype(np.int8)
        )
        steps = self.constant(f"{name}_scale", np.full(shape[0], 0.002, np.float32))
        zeros = self.constant(f"{name}_zero_point", np.zeros(shape[0], np.int8))
        return self.node("DequantizeLinear", [held, steps, zeros], f"{name}.read", axis=0)

    def bias(self, name: str, count: int) -> str:
        values = noise((count,), inputs=100)
        if not self.is_int8:
            return self.constant(f"{name}.bias", values)
        held = self.constant(f"{name}.bias_quantized", (values * 1000).astype(np.int32))
        steps = self.constant(f"{name}.bias_scale", np.full(count, 0.0001, np.float32))
        zeros = self.constant(f"{name}.bias_zero_point", np.zeros(count, np.int32))
        return self.node("DequantizeLinear", [held, steps, zeros], f"{name}.bias.read", axis=0)

    def linear(self, name: str, layer: FusedLayer, source: str) -> str:
        (shape,) = layer.inputs
        if len(shape) > 1:
            flat = self.constant(f"{name}.shape", np.array([1, int(np.prod(shape))], np.int64))
            source = self.rounded(self.node("Reshape", [source, flat], f"{name}.flatten"))
        weight = self.weight(f"{name}.weight", (layer.output[0], int(np.prod(shape))))
        inputs = [source, weight, self.bias(name, layer.output[0])]
        return self.node("Gemm", inputs, f"{name}.out", transB=1)

    def sliced(self, name: str, source: str, ends: Mapping[int, tuple[int, int, int]]) -> str:
        values = [list(ends), *map(list, zip(*ends.values(), strict=True))]
        axes, begins, stops, strides = (np.array(each, np.int64) for each in values)
        parts = {"begins": begins, "stops": stops, "axes": axes, "strides": strides}
        named = [self.constant(f"{name}.{part}", each) for part, each in parts.items()]
        return self.node("Slice", [source, *named], f"{name}.out")

    def shuffled(self, name: str, layer: FusedLayer, source: str) -> str:
        (channels, *sides), groups = layer.output, layer.groups
        apart = np.array([1, groups, channels // groups, *sides], np.int64)
        whole = np.array([1, *layer.output], np.int64)
        named = [self.constant(f"{name}.{i}", each) for i, each in enumerate((apart, whole))]
        tensor = self.rounded(self.node("Reshape", [source, named[0]], f"{name}.apart"))
        turned = self.node("Transpose", [tensor], f"{name}.turned", perm=[0, 2, 1, 3, 4])
        return self.node("Reshape", [self.rounded(turned), named[1]], f"{name}.out")

    def subsampled(self, name: str, layer: FusedLayer, source: str) -> str:
        end = 2**31
        picked = self.sliced(
            f"{name}.picked", source, {axis: (0, end, layer.stride) for axis in (2, 3)}
        )
        half = (layer.output[0] - layer.inputs[0][0]) // 2
        pads = self.constant(f"{name}.pads", np.array([0, half, 0, 0] * 2, np.int64))
        return self.node("Pad", [self.rounded(picked), pads], f"{name}.out")

    def serialised(self) -> bytes:
        graph = helper.make_graph(self.nodes, "layers", self.inputs, self.outputs, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        content: bytes = model.SerializeToString()
        return content

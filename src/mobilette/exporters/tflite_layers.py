"""TensorFlow Lite files of fused layers with random weights, for timing, written in milliseconds.

As `mobilette.exporters.onnx_layers`: the operators are those that `write_litert` ends with for the
same layers, with tensors in NHWC, int8 in and out in int8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, assert_never

import numpy as np

from mobilette.arch.primitives import Shape, same_padding
from mobilette.counting.fused_layers import FusedLayer, Step
from mobilette.counting.latency import Precision
from mobilette.exporters.onnx_layers import noise
from mobilette.exporters.tflite_graph import SCALE, TfliteGraph

_WEIGHT_STEP = 0.002


def write_tflite_layers(
    steps: Sequence[Step],
    *,
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    precision: Precision,
) -> bytes:
    """Return the ``.tflite`` file of ``steps``; arguments as of `write_onnx_layers`."""
    graph = _Graph(precision)
    pixels = {step.inputs[0] for step in steps if step.layer.kind == "normalise"}
    for name, shape in inputs.items():
        graph.input(name, shape, pixels=name in pixels)
    for step in steps:
        graph.step(step)
    for name in outputs:
        graph.output(name)
    return graph.packed()


def _nhwc(shape: Shape) -> list[int]:
    return [1, *shape[1:], shape[0]]


class _Graph(TfliteGraph):
    """Steps as tensors and operators."""

    def __init__(self, precision: Precision) -> None:
        super().__init__(precision)
        self.tensors: dict[str, int] = {}

    def input(self, name: str, shape: Shape, *, pixels: bool) -> None:
        sides = _nhwc(shape) if len(shape) == 3 else [1, *shape]
        if pixels:
            kind = self.types.TensorType.UINT8
            index = self.tensor(sides, kind, (SCALE[0], 128) if self.is_int8 else None)
        else:
            index = self.map(sides)
        self.graph.inputs.append(index)
        self.tensors[name] = index

    def output(self, name: str) -> None:
        tensor = self.tensors[name]
        shape = self.shape_of(tensor)
        if len(shape) == 4 and max(shape[1:3]) > 1:
            corner = [1, 1, 1, shape[3]]
            tensor = self.sliced(tensor, [0, 0, 0, 0], corner)
        self.graph.outputs.append(tensor)

    def step(self, step: Step) -> None:
        layer = step.layer
        inputs = [self.tensors[each] for each in step.inputs]
        residual = inputs.pop() if layer.added else None
        tensor = self.layer(layer, inputs)
        if residual is not None:
            tensor = self.elementwise("ADD", [tensor, residual], "AddOptions", layer.after_add)
            tensor = self.activated(tensor, layer.after_add)
        self.tensors[step.name] = tensor

    def layer(self, layer: FusedLayer, inputs: list[int]) -> int:
        """Return the tensor of ``layer`` with its activation, before an addition."""
        match layer.kind:
            case "conv" | "depthwise" | "grouped":
                return self.activated(self.conv(layer, inputs[0]), layer.activation)
            case "linear":
                return self.activated(self.linear(layer, inputs[0]), layer.activation)
            case "add":
                tensor = self.elementwise("ADD", inputs, "AddOptions", layer.activation)
            case "scale":
                tensor = self.elementwise("MUL", inputs, "MulOptions", layer.activation)
            case "concat":
                fused = self.fused(layer.activation)
                output = self.map(_nhwc(layer.output))
                options = {"axis": 3, "fusedActivationFunction": fused}
                tensor = self.operator(
                    "CONCATENATION", inputs, output, "ConcatenationOptions", **options
                )
            case _:
                return self.moved(layer, inputs[0])
        return self.activated(tensor, layer.activation)

    def moved(self, layer: FusedLayer, source: int) -> int:
        """Return the tensor of a layer without weights that reads one map."""
        match layer.kind:
            case "normalise":
                return self.normalised(layer, source)
            case "norm":
                conv = FusedLayer(
                    kind="depthwise",
                    inputs=layer.inputs,
                    output=layer.output,
                    groups=layer.output[0],
                    pads=(0, 0, 0, 0),
                )
                return self.conv(conv, source)
            case "max_pool" | "average_pool":
                name = "MAX_POOL_2D" if layer.kind == "max_pool" else "AVERAGE_POOL_2D"
                return self.pooled(name, layer, source, (layer.kernel, layer.kernel))
            case "mean" | "average_to":
                sides = zip(layer.inputs[0][1:], layer.output[1:], strict=True)
                height, width = (max(given // made, 1) for given, made in sides)
                return self.pooled("AVERAGE_POOL_2D", layer, source, (height, width))
            case "slice":
                begin = [0, 0, 0, layer.begin]
                return self.sliced(source, begin, _nhwc(layer.output))
            case "shuffle":
                return self.shuffled(layer, source)
            case "subsample":
                return self.subsampled(layer, source)
            case "activation":
                return self.activated(source, layer.activation)
            case "conv" | "depthwise" | "grouped" | "linear" | "add" | "scale" | "concat":
                raise AssertionError(f"{layer.kind} is no such layer")
            case _:
                assert_never(layer.kind)

    def normalised(self, layer: FusedLayer, source: int) -> int:
        name = "QUANTIZE" if self.is_int8 else "CAST"
        options = "QuantizeOptions" if self.is_int8 else ""
        whole = self.operator(name, [source], self.map(_nhwc(layer.output)), options)
        conv = FusedLayer(kind="conv", inputs=layer.inputs, output=layer.output, pads=(0, 0, 0, 0))
        return self.conv(conv, whole)

    def weight(self, shape: Shape, *, channels: int, inputs: int) -> int:
        values = noise(shape, inputs=inputs)
        if not self.is_int8:
            return self.constant(values)
        whole = (values * (127 / np.abs(values).max())).astype(np.int8)
        steps = np.full(channels, _WEIGHT_STEP, np.float32)
        index = self.constant(whole, (steps, np.zeros(channels, np.int64)))
        dimension = shape.index(channels) if shape[0] == channels else len(shape) - 1
        self.graph.tensors[index].quantization.quantizedDimension = dimension
        return index

    def bias(self, channels: int) -> int:
        if not self.is_int8:
            return self.constant(noise((channels,), inputs=100))
        steps = np.full(channels, _WEIGHT_STEP * SCALE[0], np.float32)
        return self.constant(
            np.arange(channels, dtype=np.int32), (steps, np.zeros(channels, np.int64))
        )

    def conv(self, layer: FusedLayer, source: int) -> int:
        channels, each = layer.output[0], layer.inputs[0][0] // layer.groups
        source, same = self.padded(layer, source)
        depthwise = layer.kind == "depthwise"
        sides = (layer.kernel, layer.kernel)
        shape = (1, *sides, channels) if depthwise else (channels, *sides, each)
        weight = self.weight(shape, channels=channels, inputs=each * layer.kernel**2)
        padding = self.types.Padding.SAME if same else self.types.Padding.VALID
        options: dict[str, Any] = {
            "padding": padding,
            "strideW": layer.stride,
            "strideH": layer.stride,
            "dilationWFactor": 1,
            "dilationHFactor": 1,
            "fusedActivationFunction": self.fused(layer.activation),
        }
        name, kind = "CONV_2D", "Conv2DOptions"
        if depthwise:
            name, kind = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
            options["depthMultiplier"] = 1
        inputs = [source, weight, self.bias(channels)]
        return self.operator(name, inputs, self.map(_nhwc(layer.output)), kind, **options)

    def padded(
        self, layer: FusedLayer, source: int, *, value: float | None = None
    ) -> tuple[int, bool]:
        """Return the input of ``layer``, and whether the operator pads it itself, like ``SAME``."""
        _, height, width = layer.inputs[0]
        if not layer.pads or max(layer.pads) <= 0:
            return source, False
        top, left, bottom, right = layer.pads
        same = [
            same_padding(side, kernel=layer.kernel, stride=layer.stride) for side in (height, width)
        ]
        if [(top, bottom), (left, right)] == same:
            return source, True
        top, left, bottom, right = (max(pad, 0) for pad in layer.pads)
        pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        shape = [1, height + top + bottom, width + left + right, layer.inputs[0][0]]
        inputs = [source, self.constant(pads)]
        if value is None or self.is_int8:
            return self.operator("PAD", inputs, self.map(shape), "PadOptions"), False
        inputs.append(self.constant(np.array(value, np.float32)))
        return self.operator("PADV2", inputs, self.map(shape), "PadV2Options"), False

    def linear(self, layer: FusedLayer, source: int) -> int:
        """Return a linear layer's tensor; int8 has a convolution that covers its input instead."""
        (shape,), (features,) = layer.inputs, layer.output
        sides = _nhwc(shape) if len(shape) == 3 else [1, 1, 1, *shape]
        fused = self.fused(layer.activation)
        inputs = [features, *sides[1:]]
        if not self.is_int8:
            weight = self.weight((features, prod(shape)), channels=features, inputs=prod(shape))
            given = [source, weight, self.bias(features)]
            output = self.map([1, features])
            options = {"fusedActivationFunction": fused}
            return self.operator(
                "FULLY_CONNECTED", given, output, "FullyConnectedOptions", **options
            )
        if len(self.shape_of(source)) == 2:
            source = self.reshaped(source, sides)
        weight = self.weight(tuple(inputs), channels=features, inputs=prod(shape))
        made = self.operator(
            "CONV_2D",
            [source, weight, self.bias(features)],
            self.map([1, 1, 1, features]),
            "Conv2DOptions",
            padding=self.types.Padding.VALID,
            strideW=1,
            strideH=1,
            dilationWFactor=1,
            dilationHFactor=1,
            fusedActivationFunction=fused,
        )
        return self.reshaped(made, [1, features])

    def pooled(self, name: str, layer: FusedLayer, source: int, window: tuple[int, int]) -> int:
        lowest = float(np.finfo(np.float32).min) if name == "MAX_POOL_2D" else 0.0
        source, same = self.padded(layer, source, value=lowest)
        height, width = window
        strides = (layer.stride, layer.stride) if layer.kind.endswith("pool") else window
        return self.operator(
            name,
            [source],
            self.map(_nhwc(layer.output)),
            "Pool2DOptions",
            padding=self.types.Padding.SAME if same else self.types.Padding.VALID,
            strideH=strides[0],
            strideW=strides[1],
            filterHeight=height,
            filterWidth=width,
            fusedActivationFunction=self.types.ActivationFunctionType.NONE,
        )

    def shuffled(self, layer: FusedLayer, source: int) -> int:
        channels, height, width = layer.output
        groups, each = layer.groups, channels // layer.groups
        apart = self.reshaped(source, [1, height, width, groups, each])
        turned = self.operator(
            "TRANSPOSE",
            [apart, self.whole(0, 1, 2, 4, 3)],
            self.map([1, height, width, each, groups]),
        )
        return self.reshaped(turned, _nhwc(layer.output))

    def subsampled(self, layer: FusedLayer, source: int) -> int:
        channels, _, width = layer.inputs[0]
        _, high, wide = layer.output
        for size, strides in (
            ([1, high, width, channels], (1, layer.stride, 1, 1)),
            ([1, high, wide, channels], (1, 1, layer.stride, 1)),
        ):
            ends = self.whole(*self.shape_of(source))
            inputs = [source, self.whole(0, 0, 0, 0), ends, self.whole(*strides)]
            source = self.operator("STRIDED_SLICE", inputs, self.map(size), "StridedSliceOptions")
        half = (layer.output[0] - channels) // 2
        pads = self.constant(np.array([[0, 0], [0, 0], [0, 0], [half, half]], np.int32))
        return self.operator("PAD", [source, pads], self.map(_nhwc(layer.output)), "PadOptions")

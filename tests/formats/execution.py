"""A `Graph` executed with PyTorch's functions, node after node: what a file means, for tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mobilette.formats.graph import (
    ActivationNode,
    ConvNode,
    Graph,
    JoinNode,
    NormNode,
    Padding,
    PadNode,
    PoolNode,
)

ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
}


def _padded(x: Tensor, padding: Padding, kernel: int, stride: int, value: float = 0) -> Tensor:
    if padding == "same":
        totals = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
        (rows, columns) = totals
        padding = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv(node: ConvNode, x: Tensor) -> Tensor:
    weight = torch.from_numpy(np.ascontiguousarray(node.weight))
    bias = None if node.bias is None else torch.from_numpy(node.bias)
    if weight.shape[1] * node.groups != x.shape[1]:  # a linear layer, in the file's order
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1, 1, 1)
    x = _padded(x, node.padding, weight.shape[2], node.stride)
    return F.conv2d(x, weight, bias, stride=node.stride, groups=node.groups)


def _pool(node: PoolNode, x: Tensor) -> Tensor:
    if node.kernel == 0:
        return x.mean((2, 3), keepdim=True)
    if node.function == "average":
        return F.avg_pool2d(
            _padded(x, node.padding, node.kernel, node.stride), node.kernel, node.stride
        )
    x = _padded(x, node.padding, node.kernel, node.stride, -torch.inf)
    return F.max_pool2d(x, node.kernel, node.stride)


def execute(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (batch, classes) for prepared images (batch, channels, side, side)."""
    values = {graph.input: torch.from_numpy(np.ascontiguousarray(x))}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        match node:
            case ConvNode():
                y = _conv(node, inputs[0])
            case ActivationNode():
                y = ACTIVATIONS[node.function](inputs[0])
            case PadNode():
                y = _padded(inputs[0], node.padding, 1, 1)
            case PoolNode():
                y = _pool(node, inputs[0])
            case JoinNode(function="concat"):
                y = torch.cat(inputs, 1)
            case JoinNode(function="add"):
                y = inputs[0] + inputs[1]
            case JoinNode():
                y = inputs[0] * inputs[1]
            case NormNode():
                arrays = (node.mean, node.variance, node.scale, node.shift)
                mean, variance, scale, shift = (torch.from_numpy(array) for array in arrays)
                y = F.batch_norm(inputs[0], mean, variance, scale, shift, eps=node.epsilon)
            case _:
                raise AssertionError(node)
        values[node.name] = y
    logits: NDArray[np.float32] = values[graph.output].flatten(1).numpy()
    return logits


def summary(graph: Graph) -> Counter[str]:
    return Counter(
        node.function
        if isinstance(node, ActivationNode | PoolNode | JoinNode)
        else type(node).__name__
        for node in graph.nodes
    )


def interpret(path: Path, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return what TensorFlow Lite's interpreter gives for (batch, height, width, channels)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in inputs:
        interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(output["index"]).ravel().astype(np.float32))
    return np.stack(results)

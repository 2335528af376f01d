"""A `FileNetwork` executed with PyTorch's functions: what a file means, for tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
)
from mobilette.formats.file_layers import NORM, FileLayer, FileNetwork

ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "sigmoid": F.sigmoid,
}


def _output(file: FileLayer, inputs: list[Tensor]) -> Tensor:
    tensors = {name: torch.from_numpy(array) for name, array in file.tensors.items()}
    x, layer = inputs[0], file.layer
    match layer:
        case ConvLayer():
            around = (*layer.pads(x.shape[-1]), *layer.pads(x.shape[-2]))
            x = F.pad(x, around)
            return F.conv2d(
                x,
                tensors["weight"],
                tensors.get("bias"),
                stride=layer.stride,
                groups=layer.groups,
            )
        case LinearLayer():
            return F.linear(x.flatten(1), tensors["weight"], tensors.get("bias"))[:, :, None, None]
        case NormLayer():
            weight, bias, mean, variance = (tensors[name] for name in NORM)
            return F.batch_norm(x, mean, variance, weight, bias, eps=file.epsilon)
        case ActivationLayer():
            return ACTIVATIONS[layer.function](x)
        case AdaptivePoolLayer():
            return F.adaptive_avg_pool2d(x, layer.shape[1])
        case PoolLayer():
            pool = F.max_pool2d if layer.function == "max" else F.avg_pool2d
            y: Tensor = pool(
                x, layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode
            )
            return y
        case ConcatLayer():
            return torch.cat(inputs, 1)
        case AddLayer():
            return inputs[0] + inputs[1]
        case ScaleLayer():
            return inputs[0] * inputs[1]
        case FlattenLayer():
            return x
    raise AssertionError(layer)


def execute(network: FileNetwork, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (batch, classes) for prepared images (batch, channels, side, side)."""
    values = {INPUT: torch.from_numpy(np.ascontiguousarray(x))}
    for file in network.layers:
        value = _output(file, [values[name] for name in file.layer.inputs])
        assert tuple(value.shape[1:]) == file.layer.shape, file.name
        values[file.name] = value
    logits: NDArray[np.float32] = values[network.output].flatten(1).numpy()
    return logits


def summary(network: FileNetwork) -> Counter[str]:
    """Return how many layers of each kind there are; activations and pools by what they do."""
    return Counter(
        file.layer.function
        if isinstance(file.layer, ActivationLayer | PoolLayer)
        else type(file.layer).__name__.removesuffix("Layer")
        for file in network.layers
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

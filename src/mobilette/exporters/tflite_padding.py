"""Padding that stands in front of a convolution becomes the convolution's own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.primitives import same_padding
from mobilette.exporters import tflite_file

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def fuse_padding(model: Any) -> None:
    """Make convolutions pad where they are padded as TensorFlow's ``SAME`` pads.

    litert-torch does so with floats; of integers it leaves a ``PAD``, between two ``TRANSPOSE``,
    which cost memory and time.
    """
    (graph,) = model.subgraphs
    readers = Counter(int(index) for x in graph.operators for index in x.inputs)
    readers.update(map(int, graph.outputs))
    writers = {int(x.outputs[0]): x for x in graph.operators}
    for operator in list(graph.operators):
        if tflite_file.operator_name(model, operator) not in _CONVOLUTIONS:
            continue
        before: list[Any] = []
        source = int(operator.inputs[0])
        while len(before) < 3 and source in writers and readers[source] == 1:
            before.append(writers[source])
            source = int(before[-1].inputs[0])
            if _pads_same(model, operator, before[::-1], source):
                operator.inputs[0] = source
                operator.builtinOptions.padding = tflite_file.schema().Padding.SAME
                for done in before:
                    graph.operators.remove(done)
                break
    tflite_file.drop_unused(model)


def _pads_same(model: Any, operator: Any, before: list[Any], source: int) -> bool:
    """Whether the operators ``before`` do to ``source`` just what ``SAME`` does."""
    graph, options = model.subgraphs[0], operator.builtinOptions
    names = [tflite_file.operator_name(model, x) for x in before]
    if options.padding != tflite_file.schema().Padding.VALID:
        return False
    if names == ["TRANSPOSE", "PAD", "TRANSPOSE"]:
        orders = [tuple(_constant(model, x).tolist()) for x in (before[0], before[2])]
        if orders != [_TO_NCHW, _TO_NHWC]:
            return False
        pads = _constant(model, before[1]).reshape(4, 2)[list(_TO_NHWC)]
    elif names == ["PAD"]:
        pads = _constant(model, before[0]).reshape(4, 2)
    else:
        return False
    sides = graph.tensors[source].shape[1:3]
    kernels = graph.tensors[operator.inputs[1]].shape[1:3]
    strides = (options.strideH, options.strideW)
    dilated = (options.dilationHFactor, options.dilationWFactor) != (1, 1)
    same = [
        list(same_padding(int(side), kernel=int(kernel), stride=int(stride)))
        for side, kernel, stride in zip(sides, kernels, strides, strict=True)
    ]
    return not dilated and pads.tolist() == [[0, 0], *same, [0, 0]]


def _constant(model: Any, operator: Any) -> NDArray[np.int32]:
    """Return an operator's second input, which must be a constant of int32."""
    tensor = model.subgraphs[0].tensors[operator.inputs[1]]
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int32)

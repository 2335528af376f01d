"""ONNX models with one of the known mistakes, in artifacts whose hashes and contracts all fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mobilette.artifact.contract import METADATA_KEY, canonical
from mobilette.artifact.directory import Artifact
from tests.artifact.forging import forge, read_contract

Change = Callable[[onnx.ModelProto], None]


def forge_model(folder: Path, change: Change, **contract: object) -> Artifact:
    """Change the model, or the contract beside and inside it, and make every hash fit again."""
    model = onnx.load(folder / "model.onnx")
    change(model)
    inside = replace(read_contract(folder), **contract)  # type: ignore[arg-type]
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, canonical(inside.embedded())
    return forge(folder, {"model.onnx": model.SerializeToString()}, **contract)


def nothing(model: onnx.ModelProto) -> None:
    """Leave the model as it is."""


def swap_colours(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "normalise.weight")
    matrix = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(matrix[:, ::-1].copy(), tensor.name))


def forget_the_mean(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "normalise.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), tensor.name))


def normalise_as_tf(model: onnx.ModelProto) -> None:
    """(x - 127.5) / 127.5, whatever the network was trained with."""
    weight, bias = _tensor(model, "normalise.weight"), _tensor(model, "normalise.bias")
    matrix = (np.eye(3, dtype=np.float32) / 127.5).reshape(3, 3, 1, 1)
    weight.CopyFrom(numpy_helper.from_array(matrix, weight.name))
    bias.CopyFrom(numpy_helper.from_array(np.full(3, -1, np.float32), bias.name))


def permute_the_classes(model: onnx.ModelProto) -> None:
    for name in ("head.classifier.weight", "head.classifier.bias"):
        tensor = _tensor(model, name)
        rows = numpy_helper.to_array(tensor)[::-1].copy()
        tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))


def answer_nothing(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "head.classifier.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), tensor.name))


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (found,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    assert isinstance(found, onnx.TensorProto)
    return found


def lower_class(index: int, *, by: float) -> Change:
    """Return a change that lowers one class's logit by a constant, whatever precedes it."""

    def change(model: onnx.ModelProto) -> None:
        (output,) = model.graph.output
        for node in model.graph.node:
            names = ["lowered" if name == output.name else name for name in node.output]
            node.output[:] = names
        classes = output.type.tensor_type.shape.dim[1].dim_value
        amounts = np.zeros(classes, np.float32)
        amounts[index] = by
        model.graph.initializer.append(numpy_helper.from_array(amounts, "amounts"))
        model.graph.node.append(onnx.helper.make_node("Sub", ["lowered", "amounts"], [output.name]))

    return change

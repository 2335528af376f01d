"""Reads ONNX files of float networks, as the exporters of PyTorch and Keras write them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from mobilette.errors import InputError, nearest
from mobilette.files import read_bytes
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.onnx.constants import FOLDED, Array, Constants
from mobilette.formats.onnx.nodes import Node, read_nodes
from mobilette.formats.onnx.operators import HANDLERS
from mobilette.formats.onnx.state import State, View

_LARGEST = 2**31  # bytes, the limit of the format
_LARGEST_SIDE = 65_536
_PASSING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Softmax")
_QUANTISED = ("Quantize", "Dequantize", "QLinear", "ConvInteger", "MatMulInteger", "DynamicQ")


def read_onnx(path: Path, resolution: int | None = None) -> FileNetwork:
    """Read an ONNX file, and the files with its weights beside it.

    Shapes that the graph computes are computed here. Batch norms may be nodes, arithmetic with
    constants, or folded into convolutions. Arithmetic right after the input becomes the
    `Preprocess`, whose geometry the file does not state; an unscaled float input has none.

    Args:
        path: the file; weights outside of its folder are not read.
        resolution: in pixels, if the file leaves it open.

    Raises:
        InputError: a file cannot be read, is damaged, quantised, or has unsupported operators.
    """
    content = read_bytes(path, limit=_LARGEST)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(
            f"{path}: not a complete ONNX file ({' '.join(str(error).split())[:80]})"
        ) from error
    try:
        return _network(model, path, len(content), resolution)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _network(model: onnx.ModelProto, path: Path, size: int, resolution: int | None) -> FileNetwork:
    graph = model.graph
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    nodes = read_nodes(graph)
    for node in nodes:
        _check_known(node)
    if not nodes or not opsets:
        raise InputError("no nodes in it, or no version of ONNX's operators")
    if graph.sparse_initializer:
        raise InputError("sparse weights are not supported")
    constants = Constants(graph, path, size=size, opset=opsets[0])
    inputs = [entry for entry in graph.input if entry.name not in constants]
    outputs = [entry.name for entry in graph.output]
    if "logits" in outputs:  # features may be beside them
        outputs = ["logits"]
    if len(inputs) != 1 or len(outputs) != 1:
        counts = f"{len(inputs)} inputs and {len(outputs)} outputs"
        raise InputError(f"{counts}; a classifier has one of each, or an output called logits")
    readers = Counter(name for node in nodes for name in node.inputs)
    state = _started(inputs[0], constants, readers, resolution)
    (output,) = outputs
    ending = _ending(nodes, output)
    for node in nodes:
        try:
            _apply(state, node, ending)
        except InputError as error:
            raise InputError(f"{node}: {error}") from None
    return _built(state, output, where=str(path))


def _check_known(node: Node) -> None:
    if node.op.startswith(_QUANTISED):
        raise InputError(
            f"{node} is quantised; give the float model that the quantised one was made from"
        )
    known = {*HANDLERS, *FOLDED, "Constant", "Shape"}
    if node.op not in known:
        raise InputError(f"{node} is not supported{nearest(node.op, sorted(known))}")


def _started(
    entry: onnx.ValueInfoProto,
    constants: Constants,
    readers: Counter[str],
    resolution: int | None,
) -> State:
    """Return the state with the input's shape; open sizes are ``resolution``."""
    kind = entry.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
    if len(sizes) != 4 or kind.elem_type not in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.UINT8,
    ):
        raise InputError(
            f"its input {entry.name!r:.60} has {len(sizes)} dimensions, not a batch of images "
            "in float32, float16 or uint8"
        )
    batch, *shape = sizes
    if shape.count(0) == 2 and resolution is None:
        raise InputError("takes images of any size; give --resolution")
    filled = tuple(size or resolution or 0 for size in shape)
    if not all(0 < size <= _LARGEST_SIDE for size in filled) or batch < 0:
        raise InputError(f"its input is of shape {sizes}")
    state = State(constants, batch=batch or 1, readers=readers)
    is_uint8 = kind.elem_type == onnx.TensorProto.UINT8
    state.start(entry.name, filled, is_stored_as_bytes=is_uint8)
    return state


def _ending(nodes: list[Node], output: str) -> set[str]:
    """Return the tensors that hold what the output holds."""
    ending = {output}
    for node in reversed(nodes):
        if node.op in _PASSING and ending.intersection(node.outputs):
            ending.update(node.inputs[:1])
    return ending


def _apply(state: State, node: Node, ending: set[str]) -> None:
    constants = state.constants
    if node.op == "Constant":
        constants.add(node.outputs[0], _constant(constants, node))
    elif node.op == "Shape" and node.inputs[:1] and node.inputs[0] not in constants:
        view = state.view(node.inputs[0])
        sizes = np.array([state.batch, *view.shape])
        constants.add(node.outputs[0], sizes[node.integer("start", 0) : node.attributes.get("end")])
    elif all(name in constants for name in node.inputs if name) and node.op in (*FOLDED, "Shape"):
        constants.fold(node)
    elif node.op not in HANDLERS:
        raise InputError("it reads what depends on the image; there it is not supported")
    else:
        is_end = node.op == "Sigmoid" and node.outputs[0] in ending
        made = HANDLERS["Softmax" if is_end else node.op](state, node)
        views = [made] if isinstance(made, View) else made
        for name, view in zip(node.outputs, views, strict=False):
            state.write(name, view)


def _constant(constants: Constants, node: Node) -> Array:
    (kind, value), *more = node.attributes.items() or [("", None)]
    if more or len(node.outputs) != 1:
        raise InputError("it has several values or outputs")
    if isinstance(value, onnx.TensorProto):
        return constants.tensor(value, node.outputs[0])
    if kind not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise InputError(f"its value is a {kind.removeprefix('value_')!r:.40}, not numbers")
    return np.array(value, np.float32 if "float" in kind else np.int64)


def _built(state: State, name: str, *, where: str) -> FileNetwork:
    view = state.read(name)
    if math.prod(view.shape) != max(view.shape):
        raise InputError(f"its output is {view.shape} for each image; a classifier's is (classes,)")
    output, how = state.values.logits(view.value)
    layers = state.values.leading_to(output)
    if not layers:
        raise InputError("its output is its input")
    names = {layer.name for layer in layers}
    stored = state.values.stored
    used = {origin for layer in names for origin in stored.get(layer, ())}
    weights = dict.fromkeys(origin for origins in stored.values() for origin in origins)
    idle = [name for name in state.constants.names() if not state.readers[name]]
    tensors = (*weights, *idle)
    return FileNetwork(
        where=where,
        layers=layers,
        output=output,
        shape=state.values.shape,
        ending=how,
        preprocess=state.values.preprocess(),
        tensors=tensors,
        unused=tuple(tensor for tensor in tensors if tensor not in used),
    )

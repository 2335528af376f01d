"""Edits TensorFlow Lite files that a converter has just written: names, inputs, metadata.

`mobilette.artifact.tflite` checks files from outside.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.primitives import same_padding
from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.errors import InputError
from mobilette.extras import needs

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def read(content: bytes) -> Any:
    """Return the ``ModelT`` (object API) of the file ``content``."""
    types = schema()
    return types.ModelT.InitFromPackedBuf(bytearray(content), 0)


def packed(model: Any) -> bytes:
    """Return the file of a ``ModelT``."""
    with needs("litert-export", "export to litert"):
        import flatbuffers
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def name_tensors(model: Any, contract: Contract) -> None:
    """Name tensors by layer, and input and output as in ``contract``, also in the signature.

    The converter's names and notes, of modules and files, take half of a small model's bytes.
    """
    (graph,) = model.subgraphs
    seen: Counter[str] = Counter()
    named: set[int] = set()

    def name(index: int, text: str) -> None:
        if index >= 0 and index not in named:
            named.add(index)
            seen[text] += 1
            number = f".{seen[text]}" if seen[text] > 1 else ""
            graph.tensors[index].name = (text + number).encode()

    outputs = [contract.output, contract.features] if contract.features else [contract.output]
    order = _outputs_in_order(model)
    graph.outputs = order
    ends = {int(graph.inputs[0]): contract.input.name, **dict(zip(order, outputs, strict=True))}
    for index, end in ends.items():
        name(index, end)
    for operator in graph.operators:
        kind = operator_name(model, operator)
        layer = _layer(graph.tensors[operator.outputs[0]].name) or kind.lower()
        name(int(operator.outputs[0]), layer)
        constants = ("weight", "bias") if kind in _WEIGHTED else ("constant",) * 4
        for index, constant in zip(map(int, operator.inputs[1:]), constants, strict=False):
            if index >= 0 and graph.tensors[index].buffer:
                name(index, f"{layer.removesuffix('.activation')}.{constant}")
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.name = ends[int(entry.tensorIndex)].encode()
    graph.name = contract.arch.name.encode()
    model.description = b"Mobilette"
    model.metadata, model.metadataBuffer = [], None


def _outputs_in_order(model: Any) -> list[int]:
    """Return the tensors that the program returned, in its order; the converter sorts them."""
    (graph,) = model.subgraphs
    found = [entry for each in model.signatureDefs or [] for entry in each.outputs]
    found.sort(key=lambda entry: text(entry.name))  # output_0, output_1
    return [int(entry.tensorIndex) for entry in found] or [int(index) for index in graph.outputs]


def add_contract(model: Any, contract: Contract) -> None:
    """Add ``contract`` as metadata, in its own buffer."""
    types = schema()
    buffer, entry = types.BufferT(), types.MetadataT()
    buffer.data = np.frombuffer(canonical(contract.embedded()).encode(), np.uint8)
    entry.name, entry.buffer = METADATA_KEY.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def take_pixels(model: Any, *, floats: bool = False) -> None:
    """Make an int8 graph accept uint8: a first operator shifts the zero point, exactly.

    A tensor that is not an integer is an `InputError`; with ``floats`` only the input is checked.
    """
    types = schema()
    (graph,) = model.subgraphs
    kinds = types.TensorType
    inside = graph.tensors[graph.inputs[0]]
    checked = [inside] if floats else graph.tensors
    wrong = [x for x in checked if x.type not in (kinds.INT8, kinds.INT32, kinds.INT64)]
    if wrong:
        names = ", ".join(text(x.name) for x in wrong[:3])
        raise InputError(f"{len(wrong)} tensors of the int8 graph are not integers: {names}")
    pixels = types.TensorT()
    pixels.shape, pixels.type, pixels.buffer = list(inside.shape), kinds.UINT8, 0
    pixels.hasRank = True
    pixels.quantization = types.QuantizationParametersT()
    pixels.quantization.scale = list(inside.quantization.scale)
    pixels.quantization.zeroPoint = [int(inside.quantization.zeroPoint[0]) + 128]
    code = types.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = types.BuiltinOperator.QUANTIZE
    code.version = 1
    operator = types.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = [len(graph.tensors)], [int(graph.inputs[0])]
    operator.builtinOptionsType = types.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = types.QuantizeOptionsT()
    for signature in model.signatureDefs or []:
        signature.inputs[0].tensorIndex = len(graph.tensors)
    graph.inputs = [len(graph.tensors)]
    graph.tensors.append(pixels)
    graph.operators.insert(0, operator)
    model.operatorCodes.append(code)


def operator_name(model: Any, operator: Any) -> str:
    """Return an operator's kind, such as ``CONV_2D``."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names = {
        value: name for name, value in vars(schema().BuiltinOperator).items() if name.isupper()
    }
    return str(names[number])


def operators(model: Any) -> tuple[str, ...]:
    """Return the graph's kinds of operator, sorted, each once."""
    return tuple(sorted({operator_name(model, x) for x in model.subgraphs[0].operators}))


def text(name: bytes | str | None) -> str:
    """Return a name of the object API as text."""
    return name.decode() if isinstance(name, bytes) else name or ""


def drop_unused(model: Any) -> None:
    """Remove tensors, constants and operator codes that are no longer used."""
    (graph,) = model.subgraphs
    used = {*map(int, graph.inputs), *map(int, graph.outputs)}
    for operator in graph.operators:
        used.update(map(int, operator.inputs), map(int, operator.outputs))
    kept = sorted(used - {-1})
    moved = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    for record in (graph, *graph.operators):
        record.inputs = [moved[int(index)] for index in record.inputs]
        record.outputs = [moved[int(index)] for index in record.outputs]
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = moved[int(entry.tensorIndex)]
    buffers = sorted({0, *(int(tensor.buffer) for tensor in graph.tensors)})
    model.buffers = [model.buffers[index] for index in buffers]
    for tensor in graph.tensors:
        tensor.buffer = buffers.index(tensor.buffer)
    codes = sorted({operator.opcodeIndex for operator in graph.operators})
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    for operator in graph.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)


def label_of(layer: str) -> str:
    """Return a layer's name as one part of a module's name."""
    return layer.replace(".", "__")


def _layer(name: bytes | str | None) -> str:
    """Return the layer's name in the converter's name of a tensor.

    Steps are like ``package.module.Class_attribute``; the last attribute with a layer's label
    (`label_of`) names it.
    """
    steps = text(name).partition(";")[0].split("/")
    attributes = [step.rpartition(".")[2].partition("_")[2] for step in steps if "." in step]
    last = next((x for x in reversed(attributes) if "__" in x), None)
    if last is not None:
        return last.replace("__", ".")
    return ".".join(x for x in attributes if x not in ("", "network"))


def schema() -> Any:
    """Return the format's generated Python module."""
    with needs("litert", "a TensorFlow Lite file"):
        from ai_edge_litert import schema_py_generated
    return schema_py_generated


def fuse_padding(model: Any) -> None:
    """Fold ``PAD`` into convolutions that it pads like TensorFlow's ``SAME``.

    litert-torch does this for floats; for integers it leaves ``PAD`` between two ``TRANSPOSE``,
    which cost memory and time.
    """
    (graph,) = model.subgraphs
    readers = Counter(int(index) for x in graph.operators for index in x.inputs)
    readers.update(map(int, graph.outputs))
    writers = {int(x.outputs[0]): x for x in graph.operators}
    for operator in list(graph.operators):
        if operator_name(model, operator) not in _CONVOLUTIONS:
            continue
        before: list[Any] = []
        source = int(operator.inputs[0])
        while len(before) < 3 and source in writers and readers[source] == 1:
            before.append(writers[source])
            source = int(before[-1].inputs[0])
            if _pads_same(model, operator, before[::-1], source):
                operator.inputs[0] = source
                operator.builtinOptions.padding = schema().Padding.SAME
                for done in before:
                    graph.operators.remove(done)
                break
    drop_unused(model)


def _pads_same(model: Any, operator: Any, before: list[Any], source: int) -> bool:
    graph, options = model.subgraphs[0], operator.builtinOptions
    names = [operator_name(model, x) for x in before]
    if options.padding != schema().Padding.VALID:
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
    tensor = model.subgraphs[0].tensors[operator.inputs[1]]
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int32)

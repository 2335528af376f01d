"""TensorFlow Lite files, edited through the format's own generated code: names, ends, metadata.

Only files that a converter of ours has just written are read here; those from outside are checked
by `mobilette.artifact.tflite` first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.errors import InputError
from mobilette.extras import needs


def read(content: bytes) -> Any:
    """Return the ``ModelT`` (object API) of the file ``content``."""
    schema = _schema()
    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


def packed(model: Any) -> bytes:
    """Return the file of a ``ModelT``."""
    with needs("litert-export", "export to litert"):
        import flatbuffers
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def name_ends(model: Any, contract: Contract) -> None:
    """Give input and output of the one graph the names of ``contract``, in its signature, too.

    The converter's own notes are dropped: they name paths and versions, and differ every time.
    """
    (graph,) = model.subgraphs
    ends = {int(graph.inputs[0]): contract.input.name, int(graph.outputs[0]): contract.output}
    for index, name in ends.items():
        graph.tensors[index].name = name.encode()
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.name = ends[int(entry.tensorIndex)].encode()
    graph.name = contract.arch.name.encode()
    model.description = b"Mobilette"
    model.metadata, model.metadataBuffer = [], None


def add_contract(model: Any, contract: Contract) -> None:
    """Add ``contract`` as metadata, in a buffer of its own."""
    schema = _schema()
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(canonical(contract.embedded()).encode(), np.uint8)
    entry.name, entry.buffer = METADATA_KEY.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def make_ends_integer(model: Any) -> None:
    """Make a quantised graph with float ends take uint8 and give int8.

    Its first operator quantises the input: that now takes uint8 with the same steps, so that it
    only moves the zero point. Its last operator, which makes floats of the answer, is removed.

    Raises:
        InputError: the graph does not begin or end so, or something in it is still float.
    """
    schema = _schema()
    (graph,) = model.subgraphs
    readers = [x for x in graph.operators if graph.inputs[0] in x.inputs]
    writers = [x for x in graph.operators if graph.outputs[0] in x.outputs]
    kinds = [operator_name(model, x) for x in (*readers, *writers)]
    if kinds != ["QUANTIZE", "DEQUANTIZE"]:
        raise InputError(f"the int8 graph begins and ends with {', '.join(kinds)}")
    pixels, quantised = graph.tensors[graph.inputs[0]], graph.tensors[readers[0].outputs[0]]
    pixels.type = schema.TensorType.UINT8
    pixels.quantization = schema.QuantizationParametersT()
    pixels.quantization.scale = list(quantised.quantization.scale)
    pixels.quantization.zeroPoint = [int(quantised.quantization.zeroPoint[0]) + 128]
    graph.operators.remove(writers[0])
    _replace_output(model, graph, int(writers[0].inputs[0]))
    _drop_unused(model, graph)
    floats = [x for x in graph.tensors if x.type not in _integers(schema)]
    if floats:
        names = ", ".join(text(x.name) for x in floats[:3])
        raise InputError(f"{len(floats)} tensors are still float in the int8 graph: {names}")


def operator_name(model: Any, operator: Any) -> str:
    """Return the name of an operator's kind, such as ``CONV_2D``."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names = {
        value: name for name, value in vars(_schema().BuiltinOperator).items() if name.isupper()
    }
    return names[number]


def operators(model: Any) -> tuple[str, ...]:
    """Return the names of the kinds of operator of the one graph, sorted, each once."""
    return tuple(sorted({operator_name(model, x) for x in model.subgraphs[0].operators}))


def text(name: bytes | str | None) -> str:
    """Return a name as the object API has it as text."""
    return name.decode() if isinstance(name, bytes) else name or ""


def _replace_output(model: Any, graph: Any, new: int) -> None:
    old = int(graph.outputs[0])
    graph.outputs = [new]
    for signature in model.signatureDefs or []:
        for entry in signature.outputs:
            if entry.tensorIndex == old:
                entry.tensorIndex = new


def _drop_unused(model: Any, graph: Any) -> None:
    """Remove tensors and operator codes that nothing refers to any more."""
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used.update(operator.inputs, operator.outputs)
    kept = sorted(index for index in map(int, used) if index >= 0)
    moved = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    for record in (graph, *graph.operators):
        record.inputs = [moved[int(index)] for index in record.inputs]
        record.outputs = [moved[int(index)] for index in record.outputs]
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = moved[int(entry.tensorIndex)]
    codes = sorted({operator.opcodeIndex for operator in graph.operators})
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    for operator in graph.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)


def _integers(schema: Any) -> tuple[int, ...]:
    kinds = schema.TensorType
    return kinds.INT8, kinds.UINT8, kinds.INT32, kinds.INT64, kinds.BOOL


def _schema() -> Any:
    with needs("litert", "a TensorFlow Lite file"):
        from ai_edge_litert import schema_py_generated
    return schema_py_generated

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


def take_pixels(model: Any) -> None:
    """Let an int8 graph take uint8: an operator in front moves the zero point, exactly.

    Raises:
        InputError: input, output or something between them is not an integer.
    """
    schema = _schema()
    (graph,) = model.subgraphs
    kinds = schema.TensorType
    floats = [x for x in graph.tensors if x.type not in (kinds.INT8, kinds.INT32, kinds.INT64)]
    if floats:
        names = ", ".join(text(x.name) for x in floats[:3])
        raise InputError(f"{len(floats)} tensors of the int8 graph are no integers: {names}")
    inside = graph.tensors[graph.inputs[0]]
    pixels = schema.TensorT()
    pixels.shape, pixels.type, pixels.buffer = list(inside.shape), kinds.UINT8, 0
    pixels.hasRank = True
    pixels.quantization = schema.QuantizationParametersT()
    pixels.quantization.scale = list(inside.quantization.scale)
    pixels.quantization.zeroPoint = [int(inside.quantization.zeroPoint[0]) + 128]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 1
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = [len(graph.tensors)], [int(graph.inputs[0])]
    operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = schema.QuantizeOptionsT()
    for signature in model.signatureDefs or []:
        signature.inputs[0].tensorIndex = len(graph.tensors)
    graph.inputs = [len(graph.tensors)]
    graph.tensors.append(pixels)
    graph.operators.insert(0, operator)
    model.operatorCodes.append(code)


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


def _schema() -> Any:
    with needs("litert", "a TensorFlow Lite file"):
        from ai_edge_litert import schema_py_generated
    return schema_py_generated

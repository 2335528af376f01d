"""`.tflite` files: checked before native code reads them; run by LiteRT and tflite-micro."""

from __future__ import annotations

import importlib.util
import io
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact import tflite_micro_process
from mobilette.artifact.contract import METADATA_KEY
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.formats.tflite.schema import ModelRecord, TensorRecord, read_model
from mobilette.isolated import run_isolated
from mobilette.silence import silence

_LARGEST = 2**28  # elements per tensor
_MOST_METADATA = 100
_LONGEST_CONTRACT = 2**26
_BYTES = {"float32": 4, "float16": 2, "int32": 4, "int16": 2, "int64": 8, "int8": 1, "uint8": 1}
# The operators that `mobilette.exporters` writes, and how many inputs each has.
_INPUTS = {
    "ADD": (2,),
    "AVERAGE_POOL_2D": (1,),
    "CAST": (1,),
    "CONCATENATION": range(1, 50),
    "CONV_2D": (3,),
    "DEPTHWISE_CONV_2D": (3,),
    "DEQUANTIZE": (1,),
    "FULLY_CONNECTED": (2, 3),
    "HARD_SWISH": (1,),
    "LOGISTIC": (1,),
    "MAXIMUM": (2,),
    "MAX_POOL_2D": (1,),
    "MEAN": (2,),
    "MINIMUM": (2,),
    "MUL": (2,),
    "PAD": (2,),
    "PADV2": (3,),
    "QUANTIZE": (1,),
    "RELU": (1,),
    "RELU6": (1,),
    "RESHAPE": (1, 2),
    "SLICE": (3,),
    "STRIDED_SLICE": (4,),
    "SUM": (2,),
    "TRANSPOSE": (2,),
}


def check_tflite(content: bytes) -> ModelRecord:
    """Return the record of the ``.tflite`` file ``content``; `InputError` if it is damaged.

    Every offset lies in the file, every constant fits its shape, and every operator is one that we
    write and reads only what was written before it.
    """
    if content[4:8] != b"TFL3":
        raise InputError("not a TensorFlow Lite file (wrong header), or cut short")
    with needs("litert", "a TensorFlow Lite file"):
        import flatbuffers  # noqa: F401
    record = read_model(content)
    for tensor in record.tensors:
        _check_tensor(tensor)
    ready = {index for index, tensor in enumerate(record.tensors) if len(tensor.data)}
    ready.update(record.inputs)
    for operator in record.operators:
        if len(operator.inputs) not in _INPUTS.get(operator.name, ()):
            raise InputError(f"{operator} with {len(operator.inputs)} inputs is not supported")
        if len(operator.outputs) != 1 or operator.outputs[0] in ready:
            raise InputError(f"{operator} does not write exactly one new tensor")
        needed = set(operator.inputs)
        if operator.name == "FULLY_CONNECTED":
            needed -= {-1}  # no bias
        missing = sorted(needed - ready)
        if missing:
            raise InputError(f"{operator} reads tensor {missing[0]}, which was not written before")
        ready.update(operator.outputs)
    ends = len(record.inputs), len(record.outputs)
    if ends not in ((1, 1), (1, 2)) or not ready.issuperset(record.outputs):
        raise InputError("a model with one input and one output, or a second one, is expected")
    return record


def contract_inside(content: bytes) -> str | None:
    """Return the contract's text in the checked file ``content``, or ``None``."""
    from mobilette.formats.tflite.flatbuffer import root

    model = root(content, identifier=b"TFL3")
    buffers = model.tables(12, most=5_000)
    for entry in model.tables(16, most=_MOST_METADATA):
        if entry.text(4) == METADATA_KEY:
            buffer = entry.integer(6, "Uint32")
            data = buffers[buffer].vector(4, "Uint8") if buffer < len(buffers) else np.empty(0)
            if not 0 < len(data) < _LONGEST_CONTRACT:
                raise InputError("the contract inside is damaged")
            return bytes(data).decode(errors="replace")
    return None


def _check_tensor(tensor: TensorRecord) -> None:
    width = _BYTES.get(tensor.kind)
    if width is None or tensor.sparse:
        raise InputError(
            f"tensor {tensor.name!r} is {tensor.kind} or sparse, which is not supported"
        )
    if any(size < 1 for size in tensor.shape) or prod(tensor.shape) > _LARGEST:
        raise InputError(f"tensor {tensor.name!r} has the impossible shape {tensor.shape}")
    if len(tensor.data) not in (0, prod(tensor.shape) * width):
        raise InputError(
            f"tensor {tensor.name!r} of shape {tensor.shape} has {len(tensor.data):,} bytes"
        )
    found = tensor.quantisation
    if found is None:
        return
    slices = tensor.shape[found.dimension] if 0 <= found.dimension < len(tensor.shape) else 0
    good = np.isfinite(found.scale).all() and (found.scale > 0).all()
    if not good or len(found.scale) not in (1, slices):
        raise InputError(f"tensor {tensor.name!r} has an unsupported quantisation")


LONGEST_S = 600.0
LARGEST_ARENA = 2**30


def litert_interpreter(model: bytes, *, threads: int = 0, reference: bool = False) -> Any:
    """Return LiteRT's interpreter of ``model``, its tensors allocated.

    The caller keeps ``model``, a checked file, while the interpreter is in use. With 0 ``threads``
    the engine chooses. ``reference`` selects the reference kernels instead of XNNPACK's.
    LiteRT's own errors are RuntimeError and ValueError.
    """
    with needs("litert", "LiteRT"), silence():
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    with silence():
        interpreter = Interpreter(
            model_content=model,
            num_threads=threads or None,
            experimental_op_resolver_type=kernels,
        )
        interpreter.allocate_tensors()
    return interpreter


def ask_litert(interpreter: Any, pixels: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the outputs (N, width), in the model's dtype, for ``pixels`` (N, H, W, C)."""
    source = interpreter.get_input_details()[0]["index"]
    targets = [detail["index"] for detail in interpreter.get_output_details()]
    answers: list[list[NDArray[Any]]] = [[] for _ in targets]
    for image in pixels:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        for rows, target in zip(answers, targets, strict=True):
            rows.append(interpreter.get_tensor(target)[0])
    return [np.stack(rows) for rows in answers]


def ask_tflite_micro(
    model: bytes, pixels: NDArray[np.uint8], *, arena_bytes: int | None = None
) -> NDArray[np.int8]:
    """Return tflite-micro's int8 output (N, classes) for ``pixels`` (N, H, W, C).

    It runs in its own process, because tflite-micro checks little and may crash. ``arena_bytes``,
    the memory for tensors, is more than enough by default. Failures are `InputError`.
    """
    arena = arena_bytes or min(len(model) * 10 + 2**24, LARGEST_ARENA)
    answers: NDArray[np.int8] = _micro(model, pixels, arena)["answers"]
    if answers.dtype != np.int8 or len(answers) != len(pixels) or answers.ndim != 2:
        raise InputError(f"tflite-micro answers with {answers.dtype} {answers.shape}")
    return answers


def micro_arena_bytes(model: bytes) -> int:
    """Return the smallest arena, a multiple of 16, with which tflite-micro runs ``model`` here.

    A microcontroller with 32-bit pointers needs less for its own records.
    """
    arena = min(len(model) * 10 + 2**24, LARGEST_ARENA)
    return int(_micro(model, np.empty(0, np.uint8), arena)["arena_bytes"])


def _micro(model: bytes, pixels: NDArray[np.uint8], arena: int) -> Any:
    if importlib.util.find_spec("tflite_micro") is None:
        with needs("mcu", "tflite-micro"):
            raise ModuleNotFoundError(name="tflite_micro")
    request = io.BytesIO()
    np.savez(
        request,
        model=np.frombuffer(model, np.uint8),
        pixels=pixels,
        arena=np.array(arena, np.int64),
    )
    try:
        answer = run_isolated(
            tflite_micro_process.__name__,
            stdin=request.getvalue(),
            longest_s=LONGEST_S,
        )
    except InputError as error:
        raise InputError(f"tflite-micro cannot run it ({str(error)[:200]})") from error
    with np.load(io.BytesIO(answer), allow_pickle=False) as content:
        return dict(content)

"""What LiteRT and tflite-micro answer: `.tflite` bytes and pixels in, the output as it leaves.

Both are given only what `mobilette.artifact.tflite.check_tflite` accepted.
"""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact import tflite_micro_process
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.silence import silence

LONGEST_S = 600.0
LARGEST_ARENA = 2**30


def litert_interpreter(model: bytes, *, threads: int = 0, reference: bool = False) -> Any:
    """Return LiteRT's interpreter of ``model``, its tensors allocated.

    Args:
        model: a checked file; the caller keeps it while the interpreter is in use.
        threads: 0 lets the engine choose.
        reference: the reference kernels rather than XNNPACK's and the optimised ones.

    Raises:
        InputError: the package is missing.
        RuntimeError, ValueError: LiteRT does not accept the model.
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


def ask_litert(interpreter: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the output, (N, classes) in the model's dtype, for ``pixels`` (N, H, W, C).

    Raises:
        RuntimeError, ValueError: LiteRT fails.
    """
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    answers = []
    for image in pixels:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(target)[0])
    return np.stack(answers)


def ask_tflite_micro(
    model: bytes, pixels: NDArray[np.uint8], *, arena_bytes: int | None = None
) -> NDArray[np.int8]:
    """Return tflite-micro's int8 output, (N, classes), for ``pixels`` (N, H, W, C).

    In a process of its own, for tflite-micro checks little: a crash ends that one only.

    Args:
        model: a checked file.
        pixels: as the model takes them.
        arena_bytes: of memory for tensors; ``None`` means more than enough.

    Raises:
        InputError: the package is missing, it does not accept the model, or fails.
    """
    arena = arena_bytes or min(len(model) * 10 + 2**24, LARGEST_ARENA)
    answers: NDArray[np.int8] = _micro(model, pixels, arena)["answers"]
    if answers.dtype != np.int8 or len(answers) != len(pixels) or answers.ndim != 2:
        raise InputError(f"tflite-micro answers with {answers.dtype} {answers.shape}")
    return answers


def micro_arena_bytes(model: bytes) -> int:
    """Return the smallest memory for tensors with which tflite-micro runs ``model`` on this host.

    A multiple of 16. A microcontroller with 32-bit pointers needs less for its own records.

    Raises:
        InputError: the package is missing, or it does not accept the model.
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
    # -P: whatever lies in the current folder is not imported
    command = [sys.executable, "-P", "-m", tflite_micro_process.__name__]
    try:
        done = subprocess.run(
            command, input=request.getvalue(), capture_output=True, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"tflite-micro took over {LONGEST_S:g} s") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        refused = done.returncode == tflite_micro_process.REFUSED
        reason = " ".join(lines[-3:])[:200] if refused else f"it crashed, {done.returncode}"
        raise InputError(f"tflite-micro does not run it ({reason})")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as content:
        return dict(content)

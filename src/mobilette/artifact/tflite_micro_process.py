"""Runs tflite-micro, which may crash on a bad model, in its own process.

`mobilette.artifact.tflite` starts it; request and answer are ``.npz`` on stdin and stdout.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np

from mobilette.isolated import serve

ALIGNMENT = 16


def answer(given: bytes) -> bytes:
    """Return the answers to the request's pixels or, without pixels, the smallest arena."""
    with np.load(io.BytesIO(given), allow_pickle=False) as request:
        model, pixels = request["model"].tobytes(), request["pixels"]
        arena = int(request["arena"])
    content = io.BytesIO()
    if len(pixels):
        np.savez(content, answers=_answers(model, pixels, arena))
    else:
        np.savez(content, arena_bytes=np.array(_smallest(model, arena), np.int64))
    return content.getvalue()


def _interpreter(model: bytes, arena: int) -> Any:
    from tflite_micro import runtime

    return runtime.Interpreter.from_bytes(model, arena_size=arena)


def _answers(model: bytes, pixels: np.ndarray[Any, Any], arena: int) -> np.ndarray[Any, Any]:
    interpreter = _interpreter(model, arena)
    answers = []
    for image in pixels:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        answers.append(interpreter.get_output(0)[0].copy())
    return np.stack(answers)


def _smallest(model: bytes, enough: int) -> int:
    _interpreter(model, enough)
    low, high = 0, enough // ALIGNMENT
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _interpreter(model, middle * ALIGNMENT)
        except RuntimeError:
            low = middle
        else:
            high = middle
    return high * ALIGNMENT


if __name__ == "__main__":
    sys.exit(serve(answer, RuntimeError, ValueError, MemoryError))

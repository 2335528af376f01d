"""Milliseconds of small model files, several in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Engine = Literal["onnx", "litert"]
# The engine's package, whose version a table is for.
PACKAGES: Mapping[Engine, str] = MappingProxyType(
    {"onnx": "onnxruntime", "litert": "ai-edge-litert"}
)
WARM_UP_CALLS, CALLS = 2, 4
_FINE = 1e-6  # seconds: a clock that tells small layers apart
Call = Callable[[], object]


def engine_version(engine: Engine) -> str:
    """Return the version of the engine's package; `PackageNotFoundError` if it is missing."""
    return version(PACKAGES[engine])


def open_call(engine: Engine, content: bytes, *, threads: int, whole: bool = False) -> Call:
    """Return a function that computes the file ``content`` once, on noise.

    With ``whole`` it does all that an answer to one image (N, C, H, W) takes.
    """
    if engine == "onnx":
        return _open_onnx(content, threads)
    return _open_litert(content, threads, whole)


def _open_onnx(content: bytes, threads: int) -> Call:
    from mobilette.engines.onnxruntime import open_session

    session = open_session(content, threads=threads)
    kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
    feeds = {x.name: noise(tuple(x.shape), kinds[x.type]) for x in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(names, feeds)


def _open_litert(content: bytes, threads: int, whole: bool) -> Call:
    from mobilette.artifact.tflite import ask_litert, litert_interpreter

    interpreter = litert_interpreter(content, threads=threads)
    if whole:
        (_, *sides, channels) = interpreter.get_input_details()[0]["shape"]
        pixels = noise((1, channels, *sides), np.uint8)

        def answer(_: bytes = content) -> list[NDArray[Any]]:
            return ask_litert(interpreter, np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))

        return answer
    for given in interpreter.get_input_details():
        interpreter.set_tensor(given["index"], noise(tuple(given["shape"]), given["dtype"]))

    def call(_: bytes = content) -> None:  # the interpreter reads the weights from these bytes
        interpreter.invoke()

    return call


def noise(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """Return numbers of type ``kind``, the same each time."""
    generator = np.random.default_rng(0)
    if np.issubdtype(kind, np.integer):
        return generator.integers(0, 100, shape).astype(kind)
    return generator.normal(0, 1, shape).astype(kind)


def fastest_ms(calls: Sequence[Call], *, threads: int, seconds: float, rounds: int) -> list[float]:
    """Return the fastest of each call, in milliseconds, all timed in turns.

    Other processes only ever make a call slower, so of many the fastest is what the engine takes.
    With one thread its own processor time counts, in which a call that was interrupted does not
    look slower; where nothing interrupts, it is the time that passes.

    Args:
        calls: each is called at least `CALLS` times a round.
        threads: of the engine.
        seconds: the least time for each in all rounds.
        rounds: turns.
    """
    now = time.perf_counter
    if threads == 1 and time.get_clock_info("thread_time").resolution < _FINE:
        now = time.thread_time
    best = [float("inf")] * len(calls)
    for call in calls:
        for _ in range(WARM_UP_CALLS):
            call()
    for _ in range(rounds):
        for index, call in enumerate(calls):
            began, count = now(), 0
            ended = began
            while count < CALLS or ended - began < seconds / rounds:
                started = ended
                call()
                ended = now()
                best[index] = min(best[index], ended - started)
                count += 1
    return [1e3 * each for each in best]

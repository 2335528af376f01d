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
Call = Callable[[], object]


def engine_version(engine: Engine) -> str:
    """Return the version of the engine's package; `PackageNotFoundError` if it is missing."""
    return version(PACKAGES[engine])


def open_call(engine: Engine, content: bytes, *, threads: int) -> Call:
    """Return a function that computes the file ``content`` once, on noise."""
    if engine == "onnx":
        return _open_onnx(content, threads)
    return _open_litert(content, threads)


def _open_onnx(content: bytes, threads: int) -> Call:
    from mobilette.engines.onnxruntime import open_session

    session = open_session(content, threads=threads)
    kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
    feeds = {x.name: noise(tuple(x.shape), kinds[x.type]) for x in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(names, feeds)


def _open_litert(content: bytes, threads: int) -> Call:
    from mobilette.artifact.tflite import litert_interpreter

    interpreter = litert_interpreter(content, threads=threads)
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


def fastest_ms(calls: Sequence[Call], *, seconds: float, rounds: int) -> list[float]:
    """Return the fastest of each call, in milliseconds, all timed in turns.

    Other processes only ever make a call slower, so of many the fastest is what the engine takes.

    Args:
        calls: each is called at least `CALLS` times a round.
        seconds: the least time for each in all rounds.
        rounds: turns.
    """
    best = [float("inf")] * len(calls)
    for call in calls:
        for _ in range(WARM_UP_CALLS):
            call()
    for _ in range(rounds):
        for index, call in enumerate(calls):
            began, count = time.perf_counter(), 0
            ended = began
            while count < CALLS or ended - began < seconds / rounds:
                started = ended
                call()
                ended = time.perf_counter()
                best[index] = min(best[index], ended - started)
                count += 1
    return [1e3 * each for each in best]

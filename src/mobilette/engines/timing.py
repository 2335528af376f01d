"""Measures how fast an artifact or a run answers, in its own process.

As a program it reads a `Request` and writes a `Timing`, both JSON (`mobilette.isolated`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.golden import golden_inputs
from mobilette.data.machine import pin
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.isolated import serve
from mobilette.limits import AMOUNT, BATCH, MILLISECONDS, SECONDS, THREADS
from mobilette.records import Ranged, parse

WARM_UP_CALLS, WARM_UP_SECONDS = 2, 0.2
# The fewest timed calls, with one image and with several.
CALLS, BATCH_CALLS = 10, 2


@dataclass(frozen=True, kw_only=True)
class Request(Ranged):
    """What to time.

    Attributes:
        threads: engine threads; the process is bound to as many cores where the system allows it.
        seconds: the least time for each batch size.
    """

    path: str
    threads: Annotated[int, THREADS]
    batches: Annotated[tuple[int, ...], BATCH]
    seconds: Annotated[float, SECONDS]


@dataclass(frozen=True, kw_only=True)
class Timing(Ranged):
    """What was measured.

    Attributes:
        load_ms: from the directory to the first answer, including imports.
        memory_bytes: growth of resident memory until then; ``None`` if the system does not report
            it or the engine has its own process.
        calls_ms: the latency of every call, by images per call.
    """

    engine: str
    load_ms: Annotated[float, MILLISECONDS]
    memory_bytes: Annotated[int, AMOUNT] | None
    calls_ms: Annotated[Mapping[str, tuple[float, ...]], MILLISECONDS]


def measure(request: Request) -> Timing:
    """Load a model, time its calls and return the result; `InputError` if either fails."""
    pin(request.threads)
    before, started = resident_bytes(), time.perf_counter()
    predictor = load(request.path, threads=request.threads)
    predictor.batch_logits(_images(predictor, 1))
    load_ms, after = _milliseconds_since(started), resident_bytes()
    known = before is not None and after is not None and predictor.in_this_process
    return Timing(
        engine=predictor.engine,
        load_ms=load_ms,
        memory_bytes=max((after or 0) - (before or 0), 0) if known else None,
        calls_ms={
            str(batch): _time_calls(predictor, _images(predictor, batch), request.seconds)
            for batch in request.batches
        },
    )


def _time_calls(
    predictor: Predictor, pixels: NDArray[np.uint8], seconds: float
) -> tuple[float, ...]:
    """Return the milliseconds of each call with ``pixels``, after a warm-up."""
    least = CALLS if len(pixels) == 1 else BATCH_CALLS
    _call(predictor, pixels, least=WARM_UP_CALLS, seconds=min(WARM_UP_SECONDS, seconds))
    return _call(predictor, pixels, least=least, seconds=seconds)


def resident_bytes() -> int | None:
    """Return this process's resident memory; ``None`` if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _call(
    predictor: Predictor, pixels: NDArray[np.uint8], *, least: int, seconds: float
) -> tuple[float, ...]:
    calls: list[float] = []
    began = time.perf_counter()
    while len(calls) < least or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        predictor.batch_logits(pixels)
        calls.append(_milliseconds_since(started))
    return tuple(calls)


def _images(predictor: Predictor, count: int) -> NDArray[np.uint8]:
    arch = predictor.arch
    images = golden_inputs(arch.in_channels, arch.resolution)
    return np.ascontiguousarray(np.resize(images, (count, *images.shape[1:])))


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


def _answer(request: bytes) -> bytes:
    timing = measure(parse(Request, json.loads(request), where="the request"))
    return json.dumps(asdict(timing)).encode()


if __name__ == "__main__":
    sys.exit(serve(_answer))

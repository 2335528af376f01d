"""Times fused layers and whole networks on an engine, in a process of its own.

As a program it reads a `LayerRequest` and writes a `LayerTimes`, both JSON (`mobilette.isolated`).

A layer is timed as the difference between two files: in one it is computed several times, each copy
with weights of its own and on maps that a convolution has just written, as in a network; the other
has only those convolutions. What a call costs, and copying maps in and out, cancels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from mobilette.arch.arch import Arch
from mobilette.arch.primitives import INPUT, Shape
from mobilette.counting.fused_layers import FusedLayer, Kind, Step, fused_layers
from mobilette.counting.latency import SHORTEST, Precision
from mobilette.data.machine import pin
from mobilette.engines.layer_timing import Call, Engine, fastest_ms, open_call
from mobilette.exporters.onnx_layers import write_onnx_layers
from mobilette.exporters.tflite_layers import write_tflite_layers
from mobilette.isolated import serve
from mobilette.limits import MILLISECONDS, SECONDS, THREADS
from mobilette.records import Ranged, parse

MOST_COPIES, FEWEST_COPIES = 8, 2
# Up to which a layer is computed `MOST_COPIES` times: mult-adds, and bytes moved. Larger ones take
# long enough to be told from the rest, and more copies of their weights would not fit the caches.
_SMALL = 4e6
ROUNDS = 3
# A whole network is interrupted more often: it gets so many times a file's seconds, and more turns.
WHOLE, WHOLE_ROUNDS = 30, 6
_WEIGHTED = ("conv", "depthwise", "grouped", "linear", "norm")


@dataclass(frozen=True, kw_only=True)
class LayerRequest(Ranged):
    """What to time.

    Attributes:
        layers: alone.
        networks: whole.
        seconds: the least time for each file.
    """

    engine: Engine
    precision: Precision
    threads: Annotated[int, THREADS]
    layers: tuple[FusedLayer, ...]
    networks: tuple[Arch, ...]
    seconds: Annotated[float, SECONDS]


@dataclass(frozen=True, kw_only=True)
class LayerTimes(Ranged):
    """Milliseconds of each layer and each network of a `LayerRequest`, in its order."""

    layers_ms: Annotated[tuple[float, ...], MILLISECONDS]
    networks_ms: Annotated[tuple[float, ...], MILLISECONDS]


def measure(request: LayerRequest) -> LayerTimes:
    """Time what ``request`` names, in this process, bound to as many cores as threads."""
    pin(request.threads)
    return LayerTimes(
        layers_ms=tuple(layer_ms(layer, request) for layer in request.layers),
        networks_ms=tuple(networks_ms(request)),
    )


@dataclass(frozen=True, kw_only=True)
class _File:
    """Fused layers, the maps that they read from outside, and the layers that are outputs."""

    steps: tuple[Step, ...]
    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...]


def layer_ms(layer: FusedLayer, request: LayerRequest) -> float:
    """Return the milliseconds of ``layer``, never 0."""
    amount = layer.madds + 4 * layer.elements + 16 * layer.weights
    copies = MOST_COPIES if amount < _SMALL else FEWEST_COPIES
    calls = [_open(file, request) for file in _files(layer, copies)]
    longer, shorter = fastest_ms(
        calls, threads=request.threads, seconds=request.seconds, rounds=ROUNDS
    )
    extra = copies - 1 if layer.kind == "normalise" else copies
    return max((longer - shorter) / extra, SHORTEST)


def networks_ms(request: LayerRequest) -> list[float]:
    """Return the milliseconds of one image through each whole network, timed in turns."""
    calls = []
    for arch in request.networks:
        steps = fused_layers(arch)
        file = _File(steps=steps, inputs={INPUT: arch.shape}, outputs=(steps[-1].name,))
        calls.append(_open(file, request, whole=True))
    seconds = WHOLE * request.seconds
    return fastest_ms(calls, threads=request.threads, seconds=seconds, rounds=WHOLE_ROUNDS)


def _files(layer: FusedLayer, copies: int) -> tuple[_File, _File]:
    """Return the file with ``copies`` of ``layer`` and the one to compare it with."""
    if layer.kind == "normalise":
        return _normalising(layer, copies), _normalising(layer, 1)
    shared = layer.kind in _WEIGHTED
    shapes = [*layer.inputs, *([layer.output] if layer.added else [])]
    own = [len(layer.inputs) if shared else 0, len(shapes)]  # inputs that each copy has alone
    inputs = {f"given.{number}": shape for number, shape in enumerate(shapes)}
    before: dict[str, Step] = {}
    steps: list[Step] = []
    for copy in range(copies):
        sources = []
        for number, shape in enumerate(shapes):
            alone = own[0] <= number < own[1]
            name = f"source.{number}.{copy}" if alone else f"source.{number}"
            if _is_map(shape):
                before[name] = Step(name, (f"given.{number}",), _source(shape))
            sources.append(name if _is_map(shape) else f"given.{number}")
        steps.append(Step(f"copy.{copy}", tuple(sources), layer))
    names = tuple(step.name for step in steps)
    without = tuple(before) or tuple(inputs)[:1]
    return (
        _File(steps=(*before.values(), *steps), inputs=inputs, outputs=names),
        _File(steps=tuple(before.values()), inputs=inputs, outputs=without),
    )


def _is_map(shape: Shape) -> bool:
    return len(shape) == 3


def _source(shape: Shape) -> FusedLayer:
    """Return a quick convolution that writes a map as the layers of a network would."""
    kind: Kind = "depthwise" if shape[0] > 1 else "conv"
    return FusedLayer(kind=kind, inputs=(shape,), output=shape, groups=shape[0], pads=(0, 0, 0, 0))


def _normalising(layer: FusedLayer, copies: int) -> _File:
    steps = [Step(f"copy.{copy}", (f"given.{copy}",), layer) for copy in range(copies)]
    return _File(
        steps=tuple(steps),
        inputs={step.inputs[0]: layer.inputs[0] for step in steps},
        outputs=tuple(step.name for step in steps),
    )


def _open(file: _File, request: LayerRequest, *, whole: bool = False) -> Call:
    write = write_onnx_layers if request.engine == "onnx" else write_tflite_layers
    content = write(
        file.steps, inputs=file.inputs, outputs=file.outputs, precision=request.precision
    )
    return open_call(request.engine, content, threads=request.threads, whole=whole)


def _answer(request: bytes) -> bytes:
    given = parse(LayerRequest, json.loads(request), where="the request")
    return json.dumps(asdict(measure(given))).encode()


if __name__ == "__main__":
    sys.exit(serve(_answer))

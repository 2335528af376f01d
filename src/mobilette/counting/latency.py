"""Latency of a network by a table of its layers' latencies, measured on a device.

`mobilette bench --table` makes a table (`mobilette.verification.latency_table`); prediction needs
neither the engine nor the device. A layer that the table lacks is interpolated between layers of
its kind, in the logarithms of mult-adds, weights and map elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arguments import checked
from mobilette.counting.fused_layers import FusedLayer, Step, fused_layers
from mobilette.errors import InputError
from mobilette.files import read_record, write_text
from mobilette.limits import MILLISECONDS, THREADS, Range
from mobilette.records import Ranged, check_ranges

Precision = Literal["fp32", "int8"]
FACTOR = Range(0.01, 100.0)
MEGABYTES = Range(0.0, 1e6)
# Of a layer's milliseconds: less than any layer takes, so that logarithms exist.
SHORTEST = 1e-6
_NEIGHBOURS = 4
_FEW = 4  # channels of an image
_RIDGE = 1e-2
_FLOOR = 2e-4  # milliseconds below which differences of two files are noise
_BLOCK = 16  # channels that engines compute at once
_SIZES = 6  # features of a layer that say how large it is


@dataclass(frozen=True, kw_only=True)
class MeasuredLayer(Ranged):
    """What a layer takes on the device, in milliseconds."""

    layer: FusedLayer
    milliseconds: Annotated[float, MILLISECONDS]


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """The latencies of layers on one engine of one device, for one image.

    Attributes:
        engine: the export target, such as ``onnx``.
        engine_version: of its package.
        precision: of weights and activations.
        threads: of the engine.
        machine: processor and system.
        overhead_ms: of a call, whatever the network.
        stream_ms: of a megabyte of weights beyond ``cached_mb``, which do not stay in the caches
            from call to call.
        cached_mb: the megabytes of weights that do.
        corrections: by kind of layer, what it takes in a whole network compared with alone, where
            other layers use the caches and engines change layouts; fitted on whole networks.
        layers: measured alone.
        schema: version of the file's layout.
    """

    engine: str
    engine_version: str
    precision: Precision
    threads: Annotated[int, THREADS]
    machine: str
    overhead_ms: Annotated[float, MILLISECONDS]
    corrections: Annotated[Mapping[str, float], FACTOR]
    layers: tuple[MeasuredLayer, ...]
    stream_ms: Annotated[float, MILLISECONDS] = 0.0
    cached_mb: Annotated[float, MEGABYTES] = 0.0
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.layers:
            raise InputError("the latency table has no layers")

    @cached_property
    def by_layer(self) -> Mapping[FusedLayer, float]:
        """Milliseconds of each layer, measured alone."""
        return {each.layer: each.milliseconds for each in self.layers}

    @cached_property
    def _interpolations(self) -> Mapping[str, _Interpolation]:
        """What interpolates each group of alike layers; under "" those of no known group."""
        found = {"": _Interpolation(self.layers)}
        for name in {_group(each.layer) for each in self.layers}:
            found[name] = _Interpolation([x for x in self.layers if _group(x.layer) == name])
        return found

    def milliseconds(self, layer: FusedLayer) -> float:
        """Return what ``layer`` takes in a network, measured or interpolated."""
        alone = self.by_layer.get(layer)
        if alone is None:
            model = self._interpolations.get(_group(layer)) or self._interpolations[""]
            alone = model.milliseconds(layer)
        return max(alone, SHORTEST) * self.corrections.get(layer.kind, 1.0)

    def to_json(self) -> dict[str, object]:
        """Return the table as JSON values; what a layer has by default is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "corrections": dict(self.corrections), "layers": self.layers_to_json()}

    def layers_to_json(self) -> list[dict[str, object]]:
        """Return the layers as JSON values."""
        return [
            {"milliseconds": each.milliseconds, "layer": _short(each.layer)} for each in self.layers
        ]


@checked
def read_latency_table(path: str | Path) -> LatencyTable:
    """Return the latency table in the JSON file ``path``.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_record(Path(path), LatencyTable)


def write_latency_table(table: LatencyTable, path: Path) -> None:
    """Write ``table`` as JSON, one layer a line, in one step.

    Raises:
        InputError: it cannot be written.
    """
    import json

    values = table.to_json()
    del values["layers"]
    lines = ",\n  ".join(map(json.dumps, table.layers_to_json()))
    head = json.dumps(values, indent=1).removesuffix("\n}")
    write_text(path, f'{head},\n "layers": [\n  {lines}\n ]\n}}\n')


@checked
def predicted_latency(arch: Arch, table: LatencyTable) -> float:
    """Return the predicted milliseconds of one image: of the layers, the call and large weights.

    Layers that the table lacks are interpolated (`unmeasured_layers` names them).

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """
    layers = sum(table.milliseconds(step.layer) for step in fused_layers(arch))
    beyond = max(weight_megabytes(arch, table.precision) - table.cached_mb, 0.0)
    return table.overhead_ms + layers + table.stream_ms * beyond


def weight_megabytes(arch: Arch, precision: Precision) -> float:
    """Return the megabytes (powers of 1,000) of the weights of ``arch``."""
    weights = sum(step.layer.weights for step in fused_layers(arch))
    return weights * (4 if precision == "fp32" else 1) / 1e6


def predicted_layers(arch: Arch, table: LatencyTable) -> list[tuple[Step, float]]:
    """Return every fused layer of ``arch`` with its predicted milliseconds, in order."""
    return [(step, table.milliseconds(step.layer)) for step in fused_layers(arch)]


def unmeasured_layers(arch: Arch, table: LatencyTable) -> tuple[FusedLayer, ...]:
    """Return the different layers of ``arch`` that ``table`` lacks and interpolates."""
    needed = dict.fromkeys(step.layer for step in fused_layers(arch))
    return tuple(layer for layer in needed if layer not in table.by_layer)


def interpolated(archs: Iterable[Arch], table: LatencyTable) -> str:
    """Return how many different layers of ``archs`` are interpolated, in words; empty if none."""
    needed = {step.layer for arch in archs for step in fused_layers(arch)}
    lacking = len(needed - table.by_layer.keys())
    if not lacking:
        return ""
    return f"{lacking} of {len(needed)} layers are not in the table and were interpolated"


def check_comparable(table: LatencyTable, *, engine: str, version: str, precision: str) -> None:
    """Check that ``table`` says what this engine would measure.

    Raises:
        InputError: it is of another engine, version or precision.
    """
    for what, found, wanted in (
        ("engine", table.engine, engine),
        ("version", table.engine_version, version),
        ("precision", table.precision, precision),
    ):
        if found != wanted:
            raise InputError(
                f"the latency table is of {what} {found}, not {wanted}; make one with 'mobilette "
                f"bench --table {engine} --precision {precision}'"
            )


class _Interpolation:
    """A plane through the logarithms of some layers' latencies, and the nearest layers' distances.

    Each direction of the plane is one of `_features`. More of a size never takes less time: where
    all layers have about as many channels, noise would lead far astray for others. What the layers
    nearest to a new one have above or below the plane is added, weighted by their nearness.
    """

    def __init__(self, measured: Sequence[MeasuredLayer]) -> None:
        from scipy.optimize import lsq_linear  # takes a while to import

        points = np.array([_features(each.layer) for each in measured])
        times = np.log([max(each.milliseconds, _FLOOR) for each in measured])
        self._centre, self._scale = points.mean(axis=0), points.std(axis=0) + 0.1
        self._points = (points - self._centre) / self._scale
        self._level = float(times.mean())
        size = self._points.shape[1]
        pull = (_RIDGE * len(points)) ** 0.5 * np.eye(size)
        least = np.where(np.arange(size) < _SIZES, 0.0, -np.inf)
        self._slopes: NDArray[np.float64] = lsq_linear(
            np.vstack([self._points, pull]),
            np.concatenate([times - self._level, np.zeros(size)]),
            (least, np.inf),
        ).x
        self._above = times - self._level - self._points @ self._slopes

    def milliseconds(self, layer: FusedLayer) -> float:
        point = (np.array(_features(layer)) - self._centre) / self._scale
        apart = ((self._points - point) ** 2).sum(axis=1)
        nearest = np.argsort(apart, kind="stable")[:_NEIGHBOURS]
        weights = 1 / (apart[nearest] + 1e-2)
        above = float(self._above[nearest] @ weights / weights.sum())
        return float(np.exp(self._level + point @ self._slopes + above))


def _features(layer: FusedLayer) -> list[float]:
    """Return the logarithms of what a layer computes and moves, `_SIZES` of them, and how."""
    channels, *sides = layer.output
    given = layer.inputs[0][0]
    return [
        float(np.log1p(layer.madds)),
        float(np.log(layer.elements)),
        float(np.log1p(layer.weights)),
        float(np.log(channels)),
        float(np.log(given)),
        float(np.log(prod(sides))),
        float(np.log(-(-channels // _BLOCK) * _BLOCK / channels)),
        float(np.log(-(-given // _BLOCK) * _BLOCK / given)),
        float(layer.kernel),
        float(layer.stride),
        float(layer.added),
        float(layer.activation == "relu"),
        float(layer.activation in ("hard_swish", "sigmoid")),
        float(layer.activation == "hard_sigmoid"),
    ]


def _group(layer: FusedLayer) -> str:
    """Return the layers among which ``layer`` is interpolated: convolutions are of four kinds."""
    if layer.kind != "conv":
        return layer.kind
    if layer.output[1:] == (1, 1):
        return "conv of a vector"
    if layer.inputs[0][0] <= _FEW:
        return "conv of pixels"
    return "pointwise" if layer.kernel == 1 else "conv"


def _short(layer: FusedLayer) -> dict[str, object]:
    values = {field: getattr(layer, field.name) for field in fields(layer)}
    return {
        field.name: value
        for field, value in values.items()
        if field.default is MISSING or value != field.default
    }

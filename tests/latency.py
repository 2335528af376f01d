"""Latency tables of devices that do not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mobilette.counting.fused_layers import FusedLayer
from mobilette.counting.latency import LatencyTable, MeasuredLayer, Precision


def device_table(
    layers: Iterable[FusedLayer],
    *,
    milliseconds: Callable[[FusedLayer], float] = lambda layer: 1e-6 * layer.madds,
    precision: Precision = "fp32",
    overhead_ms: float = 1.0,
) -> LatencyTable:
    """Return a table of ONNX Runtime, one thread; by default a nanosecond for each mult-add."""
    return LatencyTable(
        engine="onnx",
        engine_version="1.0",
        precision=precision,
        threads=1,
        machine="a device",
        overhead_ms=overhead_ms,
        corrections={},
        layers=tuple(
            MeasuredLayer(layer=layer, milliseconds=milliseconds(layer))
            for layer in dict.fromkeys(layers)
        ),
    )

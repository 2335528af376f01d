"""The ranges of an ONNX model's activations by a rule that ONNX Runtime's quantiser has not.

Its own percentiles are those of 128 bins, and hold every activation of every image in memory; for
the mean square it has no rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from mobilette.compression.ranges import BINS, Ranges, histogram_range
from mobilette.extras import reports_off


def activation_ranges(
    model: onnx.ModelProto, pixels: NDArray[np.uint8], ranges: Ranges
) -> dict[str, tuple[float, float]]:
    """Return (smallest, largest) value of every activation by its name, as ``ranges`` chooses.

    Args:
        model: in float; not changed.
        pixels: typical inputs, (N, C, H, W).
        ranges: the rule.
    """
    ends: dict[str, tuple[float, float]] = {}
    for values in _activations(model, pixels):
        for name, value in values.items():
            low, high = ends.get(name, (np.inf, -np.inf))
            ends[name] = min(low, float(value.min())), max(high, float(value.max()))
    edges = {name: np.linspace(low, high, BINS + 1) for name, (low, high) in ends.items()}
    counts = {name: np.zeros(BINS) for name in ends}
    for values in _activations(model, pixels):
        for name, value in values.items():
            counts[name] += np.histogram(value, BINS, range=ends[name])[0]
    return {name: histogram_range(ranges, counts[name], edges[name]) for name in ends}


def _activations(
    model: onnx.ModelProto, pixels: NDArray[np.uint8]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield all float tensors of the network by name, for one image after the other."""
    with reports_off():
        import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    names = [name for node in model.graph.node for name in node.output]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for image in pixels:
        values = session.run(names, {model.graph.input[0].name: image[None]})
        pairs = zip(names, values, strict=True)
        yield {name: value for name, value in pairs if value.dtype == np.float32}

"""int8 ONNX by ONNX Runtime's static quantiser (QDQ); pixels are quantised input where possible."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from mobilette.compression.float_layers import is_part_of
from mobilette.compression.ranges import BINS, Ranges, histogram_range
from mobilette.data.normalise import Normalise
from mobilette.exporters.program import quiet_log
from mobilette.extras import reports_off
from mobilette.folders import scratch
from mobilette.model.model import Model
from mobilette.nn.network import Network

# Keeps the quantiser from warning that its own preparation was skipped; ours needs none.
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantisable:
    """A network whose normalisation is its input's scale and zero point, if possible.

    ``scale`` is ``None`` where the normalisation stays a convolution.
    """

    network: Network
    normalise: Normalise
    scale: float | None = None
    zero_point: int = 0


def absorb_normalisation(model: Model) -> Quantisable:
    """Return the network with normalisation as its input's scale and zero point, if possible.

    If all channels share mean and std, (pixel - mean) / std is uint8 with scale 1/std and zero
    point mean. The zero point is an integer, so the rest of the mean, at most half a step, moves
    into the first bias, which is exact except at the padding. Different means would need different
    padding, so there normalisation stays a convolution: its diagonal is exact in int8 per channel.
    """
    preprocess, stem = model.preprocess, model.network.stem.conv
    kept = Quantisable(network=model.network, normalise=Normalise(preprocess))
    same = len(set(preprocess.mean)) == len(set(preprocess.std)) == 1
    if not same or preprocess.colour == "bgr":
        return kept
    if not isinstance(stem, nn.Conv2d) or stem.bias is None:
        return kept
    mean, std = preprocess.mean[0], preprocess.std[0]
    zero_point = round(mean)
    if not 0 <= zero_point <= 255:
        return kept
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        bias = stem.bias.double() + (zero_point - mean) / std * stem.weight.double().sum((1, 2, 3))
        network.stem.conv.bias.copy_(bias)  # type: ignore[operator, union-attr]
    moved = replace(preprocess, mean=(float(zero_point),) * preprocess.channels)
    return Quantisable(
        network=network, normalise=Normalise(moved), scale=1 / std, zero_point=zero_point
    )


def quantize(
    model: onnx.ModelProto,
    pixels: NDArray[np.uint8],
    quantisable: Quantisable,
    *,
    ranges: Ranges = "plain",
    floats: Set[str] = frozenset(),
) -> onnx.ModelProto:
    """Return ``model`` in int8, calibrated with typical ``pixels`` (N, C, H, W).

    Weights are int8 per channel, activations uint8, logits float32; layers ``floats`` stay in
    float. Nodes keep their names; added nodes are named after their tensor (``_QuantizeLinear``,
    ``_DequantizeLinear``).
    """
    with reports_off():
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    source = onnx.ModelProto()
    source.CopyFrom(model)  # the quantiser moves its model's weights into a file
    entry = source.metadata_props.add()
    entry.key, entry.value = _PREPARED
    # Without quantised output a linear layer still runs in int8, with float32 out.
    options: dict[str, object] = {"OpTypesToExcludeOutputQuantization": ["Gemm"]}
    given: dict[str, dict[str, object]] = {}
    if ranges not in ("plain", "minmax"):
        given = {
            name: {"rmin": np.array(low, np.float32), "rmax": np.array(high, np.float32)}
            for name, (low, high) in activation_ranges(model, pixels, ranges).items()
        }
    (normalised,) = (x.output[0] for x in model.graph.node if x.name == "normalise.conv")
    if quantisable.scale is not None:
        floats = floats - {"normalise"}
        given[normalised] = {
            "scale": np.array(quantisable.scale, np.float32),
            "zero_point": np.array(quantisable.zero_point, np.uint8),
        }
    if given:
        options["TensorQuantOverrides"] = {
            name: [{"quant_type": QuantType.QUInt8} | values] for name, values in given.items()
        }
    with quiet_log(), scratch() as folder:
        path = folder / "model.onnx"
        quantize_static(
            source,
            path,
            _Images(pixels, name=model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[x.name for x in model.graph.node if is_part_of(x.name, floats)],
            extra_options=options,
        )
        quantised = onnx.load(path)
    if quantisable.scale is not None:
        _feed_pixels(quantised, normalised)
    del quantised.metadata_props[:]
    return quantised


class _Images:
    """Calibration images for ONNX Runtime's quantiser, one by one."""

    def __init__(self, pixels: NDArray[np.uint8], *, name: str) -> None:
        self._remaining = iter(pixels)
        self._name = name

    def get_next(self) -> Mapping[str, NDArray[np.uint8]] | None:
        image = next(self._remaining, None)
        return None if image is None else {self._name: image[None]}


def _feed_pixels(model: onnx.ModelProto, normalised: str) -> None:
    """Use the pixels as ``normalised`` in quantised form; drop the nodes that computed it."""
    graph = model.graph
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].startswith(f"{normalised}_Quant"):
            node.input[0] = graph.input[0].name
    used = {output.name for output in graph.output}
    for node in reversed(graph.node):  # from the end, so that consumers come before producers
        if used.intersection(node.output):
            used.update(node.input)
    kept = [node for node in graph.node if used.intersection(node.output)]
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)


def activation_ranges(
    model: onnx.ModelProto, pixels: NDArray[np.uint8], ranges: Ranges
) -> dict[str, tuple[float, float]]:
    """Return the (smallest, largest) value of every activation by name, by the rule ``ranges``."""
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

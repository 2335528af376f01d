"""ncnn's param and weights files, checked because ncnn trusts the sizes they state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

MAGIC = "7767517"
MOST_LAYERS = 10_000
# Layers with weights: their parameters for the number of weights, the outputs and the bias flag.
_WEIGHTS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"Convolution": (6, 0, 5), "ConvolutionDepthWise": (6, 0, 5), "InnerProduct": (2, 0, 1)}
)
_PLAIN = (
    *("Input", "Split", "MemoryData", "BinaryOp", "Concat", "Slice", "Crop", "Padding"),
    *("Pooling", "Flatten", "Reshape", "Permute", "Squeeze", "ExpandDims", "ShuffleChannel"),
    *("ReLU", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Swish"),
)
HALF = (0x01306B47).to_bytes(4, "little")  # the flag of 16-bit weights


@dataclass(frozen=True, kw_only=True)
class NcnnLayer:
    """A line of the param file; ``params`` maps each parameter's number to its text."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, str]

    def number(self, key: int, default: int = 0) -> int:
        """Return parameter ``key``; `ValueError` unless it is 0 to 2**31 - 1."""
        value = int(self.params.get(key, default))
        if not 0 <= value < 2**31:
            raise ValueError(f"{self.name}: {key}={value}")
        return value


def read_layers(text: str) -> tuple[NcnnLayer, ...]:
    """Return a param file's layers; `ValueError` if it is damaged or has an unknown layer."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != MAGIC:
        raise ValueError(f"it does not begin with {MAGIC}")
    count, blobs = (int(word) for word in "".join(lines[1:2]).split())
    if count > MOST_LAYERS or len(lines) != count + 2:
        raise ValueError(f"{count} layers declared, {len(lines) - 2} found")
    layers = tuple(_read_layer(line) for line in lines[2:])
    known: set[str] = set()
    for layer in layers:
        if missing := set(layer.inputs) - known:
            raise ValueError(f"{layer.name} reads {missing.pop()!r} before it is written")
        if len(set(layer.outputs) - known) < len(layer.outputs):
            raise ValueError(f"{layer.name} writes what another layer has written")
        known.update(layer.outputs)
    if len(known) != blobs:
        raise ValueError(f"{blobs} tensors declared, {len(known)} found")
    return layers


def _read_layer(line: str) -> NcnnLayer:
    kind, name, inputs, outputs, *rest = line.split()
    if kind not in (*_PLAIN, *_WEIGHTS):
        raise ValueError(f"{kind[:40]!r} is not a layer that Mobilette writes")
    first, second = int(inputs), int(outputs)
    if not (first >= 0 and second > 0 and first + second <= len(rest)):
        raise ValueError(f"{name[:40]}: inputs or outputs are missing")
    pairs = (word.partition("=") for word in rest[first + second :])
    return NcnnLayer(
        kind=kind,
        name=name,
        inputs=tuple(rest[:first]),
        outputs=tuple(rest[first : first + second]),
        params={int(key): value for key, _, value in pairs},
    )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A layer's bytes in the weights file: a flag of 4 bytes, ``count`` weights, float32 biases.

    A MemoryData layer is float32 data only.
    """

    layer: NcnnLayer
    start: int
    end: int
    count: int


def find_weights(layers: Sequence[NcnnLayer], weights: bytes) -> list[Weights]:
    """Return the layers' parts of ``weights``, in order; `ValueError` if their sizes do not fit."""
    parts: list[Weights] = []
    position = 0
    for layer in layers:
        if layer.kind == "MemoryData":
            count, size = 0, 4 * layer.number(0)
        elif layer.kind in _WEIGHTS:
            count = layer.number(_WEIGHTS[layer.kind][0])
            size = _size(layer, weights[position : position + 4])
        else:
            continue
        parts.append(Weights(layer=layer, start=position, end=position + size, count=count))
        position += size
    if position != len(weights):
        raise ValueError(f"{len(weights):,} bytes of weights, {position:,} are read")
    return parts


def _size(layer: NcnnLayer, flag: bytes) -> int:
    count, outputs, bias = (layer.number(key) for key in _WEIGHTS[layer.kind])
    each = outputs
    if layer.kind != "InnerProduct":
        each *= layer.number(1) * layer.number(11, layer.number(1))
    if not each or count % each or bias > 1:
        raise ValueError(f"{layer.name}: {count:,} weights")
    half = flag == HALF
    if not half and any(flag):
        raise ValueError(f"{layer.name}: weights of an unknown kind")
    return 4 + (-(-count // 2) * 4 if half else 4 * count) + 4 * outputs * bias

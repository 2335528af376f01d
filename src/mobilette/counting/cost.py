"""Parameters, mult-adds, activation memory and size of a network.

Conventions: one multiply-accumulate is one mult-add, and only convolutions and linear layers have
any. Bytes are those of the network with its batch norms folded into the convolutions, as it is
deployed: each convolution has a bias of 4 bytes a channel at either precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Protocol

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
    Shape,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
)

BIAS_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """A number of bytes at each precision."""

    fp32: int
    int8: int


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One line of the per-layer table.

    Attributes:
        shape: of the output, without the batch.
        params: trainable parameters.
        activation_bytes: of the layer's output.
    """

    name: str
    kind: str
    shape: Shape
    params: int
    madds: int
    activation_bytes: Bytes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs for one picture.

    Attributes:
        params: trainable parameters, batch norm's scale and shift included.
        madds: multiply-accumulates of convolutions and linear layers.
        peak_activation_bytes: the most that is alive at once while the layers run in order.
        size_bytes: of the weights.
    """

    name: str
    params: int
    madds: int
    peak_activation_bytes: Bytes
    size_bytes: Bytes
    layers: tuple[LayerCost, ...]

    def to_json(self) -> dict[str, object]:
        """Return the cost as JSON values."""
        return asdict(self)


class HasArch(Protocol):
    """A built network, or anything else that knows its `Arch`."""

    @property
    def arch(self) -> Arch:
        """The network as data."""


def cost(model: Arch | HasArch) -> Cost:
    """Return what an `Arch`, or the `Arch` of a built network, costs for one picture.

    Raises:
        InputError: the rows do not fit together.
    """
    arch = model if isinstance(model, Arch) else model.arch
    graph = layers(arch)
    table = tuple(layer_cost(layer) for layer in graph)
    peak = peak_activations(graph, (arch.in_channels, arch.resolution, arch.resolution))
    weights, biases = _deployed_weights(graph)
    return Cost(
        name=arch.name,
        params=sum(line.params for line in table),
        madds=sum(line.madds for line in table),
        peak_activation_bytes=Bytes(fp32=4 * peak, int8=peak),
        size_bytes=Bytes(
            fp32=4 * weights + BIAS_BYTES * biases, int8=weights + BIAS_BYTES * biases
        ),
        layers=table,
    )


def weight_shapes(layer: AnyLayer) -> dict[str, Shape]:
    """Return the shapes of a layer's trainable tensors, named as in the state dict."""
    match layer:
        case ConvLayer():
            kernel = (layer.kernel, layer.kernel)
            shapes: dict[str, Shape] = {
                "weight": (layer.shape[0], layer.in_channels // layer.groups, *kernel)
            }
            return shapes | ({"bias": layer.shape[:1]} if layer.bias else {})
        case LinearLayer():
            return {"weight": (layer.shape[0], layer.in_features), "bias": layer.shape}
        case NormLayer():
            return {"weight": layer.shape[:1], "bias": layer.shape[:1]}
        case _:
            return {}


def peak_activations(graph: Sequence[AnyLayer], input_shape: Shape) -> int:
    """Return the largest number of activation elements alive while ``graph`` runs in order.

    A tensor lives from the layer that makes it to the last that reads it, so a residual is held
    across its block. Batch norm, activations, flattening, additions and channel scaling write
    where an input that nobody reads later lies, and so cost nothing; a slice is a view, and a
    concatenation's inputs are written where they will be read.
    """
    owner = {INPUT: INPUT}
    for layer in graph:
        owner[layer.name] = owner[layer.inputs[0]] if isinstance(layer, SliceLayer) else layer.name
    last_use = {owner[name]: step for step, layer in enumerate(graph) for name in layer.inputs}
    live = {INPUT: prod(input_shape)}
    peak = live[INPUT]
    for step, layer in enumerate(graph):
        elements = prod(layer.shape)
        sources = dict.fromkeys(owner[name] for name in layer.inputs)
        dying = [name for name in sources if last_use[name] == step]
        if isinstance(layer, SliceLayer):
            elements = new = 0
        elif isinstance(layer, ConcatLayer):
            new = max(0, elements - sum(live[name] for name in dying))
        elif _in_place(layer) and any(live[name] == elements for name in dying):
            new = 0
        else:
            new = elements
        peak = max(peak, sum(live.values()) + new)
        for name in dying:
            del live[name]
        if elements:
            live[layer.name] = elements
    return peak


def _in_place(layer: AnyLayer) -> bool:
    in_place = NormLayer | ActivationLayer | FlattenLayer | AddLayer | ScaleLayer
    return isinstance(layer, in_place)


def layer_cost(layer: AnyLayer) -> LayerCost:
    """Return one layer's line of the table."""
    elements = prod(layer.shape)
    return LayerCost(
        name=layer.name,
        kind=_kind(layer),
        shape=layer.shape,
        params=sum(prod(shape) for shape in weight_shapes(layer).values()),
        madds=_madds(layer),
        activation_bytes=Bytes(fp32=4 * elements, int8=elements),
    )


def _madds(layer: AnyLayer) -> int:
    match layer:
        case ConvLayer():
            return prod(layer.shape) * layer.kernel**2 * (layer.in_channels // layer.groups)
        case LinearLayer():
            return layer.shape[0] * layer.in_features
        case _:
            return 0


def _kind(layer: AnyLayer) -> str:
    match layer:
        case ConvLayer():
            stride = f" /{layer.stride}" if layer.stride > 1 else ""
            depthwise = layer.groups == layer.in_channels > 1
            groups = " depthwise" if depthwise else f" groups {layer.groups}"
            return f"conv {layer.kernel}x{layer.kernel}{stride}" + groups * (layer.groups > 1)
        case ActivationLayer():
            return layer.function.replace("_", "-")
        case PoolLayer():
            stride = f" /{layer.stride}" if layer.stride > 1 else ""
            return f"{layer.function} pool {layer.kernel}x{layer.kernel}{stride}"
        case AdaptivePoolLayer():
            side = layer.shape[-1]
            return "global pool" if side == 1 else f"average pool to {side}x{side}"
        case ShuffleLayer():
            return f"shuffle groups {layer.groups}"
        case _:
            return _KINDS[type(layer)]


_KINDS = {
    LinearLayer: "linear",
    NormLayer: "batch norm",
    FlattenLayer: "flatten",
    AddLayer: "add",
    ConcatLayer: "concat",
    SliceLayer: "split",
    SubsampleLayer: "subsample",
    ScaleLayer: "scale",
}


def _deployed_weights(graph: Sequence[AnyLayer]) -> tuple[int, int]:
    """Return (weights, biases) with batch norm folded: every convolution has a bias then."""
    weights = biases = 0
    for layer in graph:
        if isinstance(layer, ConvLayer | LinearLayer):
            weights += prod(weight_shapes(layer)["weight"])
            biases += layer.shape[0]
    return weights, biases

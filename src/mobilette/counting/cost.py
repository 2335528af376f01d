"""Parameters, mult-adds, activation memory and size of a network.

One multiply-accumulate is one mult-add; only convolutions and linear layers have any. Bytes are
counted with batch norms folded: each convolution has a bias of 4 bytes per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mobilette.arch import primitives
from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import JSON, get_arch
from mobilette.arch.editing import merged
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, AnyLayer, Shape
from mobilette.arguments import checked
from mobilette.errors import InputError, shown
from mobilette.files import is_file, read_json, read_record
from mobilette.notebook import html_table
from mobilette.records import parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BIAS_BYTES = 4
# Values of 4 bytes: VGG-19 has 144 million weights, and at 4,096 pixels a billion values at once.
LARGEST_WEIGHTS = 2**30
LARGEST_ACTIVATIONS = 2**31
Count = TypeVar("Count", int, "NDArray[np.int64]")


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
    """What a network costs for one image.

    Attributes:
        params: trainable parameters, including scale and shift of batch norms.
        madds: multiply-accumulates of convolutions and linear layers.
        peak_activation_bytes: the most alive at once while the layers run in order.
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

    def _repr_html_(self) -> str:
        size, peak = self.size_bytes, self.peak_activation_bytes
        rows = [
            (each.name, each.kind, "x".join(map(str, each.shape)), each.params, each.madds)
            for each in self.layers
        ]
        notes = (
            f"{self.params:,} parameters, {self.madds:,} mult-adds",
            f"size {size.fp32:,} bytes in fp32, {size.int8:,} in int8",
            f"peak activations {peak.fp32:,} bytes in fp32, {peak.int8:,} in int8",
        )
        columns = ("layer", "kind", "output", "parameters", "mult-adds")
        return html_table(f"Cost of {self.name}", columns, rows, notes)


class HasArch(Protocol):
    """A network, or anything else with an `Arch`."""

    @property
    def arch(self) -> Arch:
        """The network as data."""


@checked
def cost(model: str | Path | Arch | HasArch) -> Cost:
    """Return what a network costs for one image.

    Size and peak activations are those of the deployed network: batch norms folded, and parallel
    branches (RepVGG, MobileOne) merged.

    Args:
        model: a network's name (`mobilette.get_arch`), an `Arch`, the result of `create_model` or
            `load`, a `Model`, a run or an artifact, or the path of one.

    Raises:
        InputError: it is none of these, or the rows do not fit together.
    """
    arch = arch_of(model)
    graph = layers(arch)
    table = tuple(layer_cost(layer) for layer in graph)
    deployed = layers(merged(arch))
    elements = {INPUT: prod(arch.shape)}
    elements |= {layer.name: prod(layer.shape) for layer in deployed}
    peak = peak_activations(deployed, elements, max)
    return Cost(
        name=arch.name,
        params=sum(line.params for line in table),
        madds=sum(line.madds for line in table),
        peak_activation_bytes=Bytes(fp32=4 * peak, int8=peak),
        size_bytes=deployed_bytes(deployed),
        layers=table,
    )


def check_memory(arch: Arch) -> None:
    """Check that the weights and the activations of one image fit in memory.

    Raises:
        InputError: they do not, or the rows do not fit together.
    """
    counted = cost(arch)
    if counted.params > LARGEST_WEIGHTS:
        raise InputError(
            f"{arch.name}: {counted.params:,} weights: at most {LARGEST_WEIGHTS:,} are supported"
        )
    values = counted.peak_activation_bytes.int8
    if values > LARGEST_ACTIVATIONS:
        raise InputError(
            f"{arch.name} at {'x'.join(map(str, arch.size))} pixels has {values:,} activations "
            f"alive at once: at most {LARGEST_ACTIVATIONS:,} are supported"
        )


def arch_at(path: str | Path) -> Arch | None:
    """Return the `Arch` in a JSON file, or of the run or the artifact in a folder, if any.

    Raises:
        InputError: its record is damaged.
    """
    if str(path).endswith(JSON):
        return get_arch(str(path))
    run, artifact = Path(path) / "arch.json", Path(path) / "contract.json"
    if is_file(run):
        return read_record(run, Arch)
    if is_file(artifact):
        record = read_json(artifact)
        value = record.get("arch") if isinstance(record, dict) else None
        return parse(Arch, value, where=f"{artifact}: arch")
    return None


def arch_of(model: str | Path | Arch | HasArch) -> Arch:
    """Return the `Arch` of anything that `cost` accepts."""
    if isinstance(model, str | PathLike):
        if (arch := arch_at(model)) is not None:
            return arch
        if isinstance(model, str) and not Path(model).exists():  # @checked has looked it up
            return get_arch(model)
        raise InputError(f"{shown(str(model))}: no run and no artifact is there")
    contract = getattr(model, "contract", model)  # an artifact's
    found = model if isinstance(model, Arch) else getattr(contract, "arch", None)
    if not isinstance(found, Arch):
        raise InputError(
            f"cost: model is {shown(model)}; expected a network's name, an Arch, a path, or what "
            "create_model or load returns"
        )
    return found


def weight_shapes(layer: AnyLayer) -> dict[str, Shape]:
    """Return the shapes of a layer's trainable tensors, named as in the state dict."""
    match layer:
        case primitives.ConvLayer():
            inputs = layer.in_channels // layer.groups
            weight = (layer.shape[0], inputs, layer.kernel, layer.kernel)
            return {"weight": weight} | ({"bias": layer.shape[:1]} if layer.bias else {})
        case primitives.LinearLayer():
            return {"weight": (layer.shape[0], layer.in_features), "bias": layer.shape}
        case primitives.NormLayer():
            return {"weight": layer.shape[:1], "bias": layer.shape[:1]}
        case _:
            return {}


def peak_activations(
    graph: Sequence[AnyLayer],
    elements: Mapping[str, Count],
    maximum: Callable[[Count, Count], Count],
) -> Count:
    """Return the largest number of activation elements alive while ``graph`` runs in order.

    A tensor lives from the layer that computes it to the last that reads it. Batch norms,
    activations, flattening, additions and scaling overwrite an input that no later layer reads; a
    slice is a view; the inputs of a concatenation are written in place.

    ``elements`` is the size of each layer's output and of ``input``: a number, or an array of one
    per resolution; ``maximum`` is ``max`` or ``numpy.maximum`` accordingly.
    """
    owner = {INPUT: INPUT}
    for layer in graph:
        owner[layer.name] = (
            owner[layer.inputs[0]] if isinstance(layer, primitives.SliceLayer) else layer.name
        )
    last_use = {owner[name]: step for step, layer in enumerate(graph) for name in layer.inputs}
    live = {INPUT: elements[INPUT]}
    peak = total = elements[INPUT]
    for step, layer in enumerate(graph):
        sources = dict.fromkeys(owner[name] for name in layer.inputs)
        dying = [name for name in sources if last_use[name] == step]
        if dying and isinstance(
            layer, primitives.NormLayer | primitives.ActivationLayer | primitives.FlattenLayer
        ):
            live[layer.name] = live.pop(dying[0])
            continue
        if not isinstance(layer, primitives.SliceLayer):
            made = new = elements[layer.name]
            for name in dying:
                if isinstance(layer, primitives.ConcatLayer):
                    new = maximum(new - live[name], 0 * new)
                elif isinstance(layer, primitives.AddLayer | primitives.ScaleLayer):
                    new = new * (live[name] != made)
            peak = maximum(peak, total + new)
            live[layer.name] = made
            total = total + made
        for name in dying:
            total = total - live.pop(name)
    return peak


def layer_cost(layer: AnyLayer) -> LayerCost:
    """Return one layer's line of the table."""
    elements = prod(layer.shape)
    return LayerCost(
        name=layer.name,
        kind=_kind(layer),
        shape=layer.shape,
        params=layer_params(layer),
        madds=layer_madds(layer),
        activation_bytes=Bytes(fp32=4 * elements, int8=elements),
    )


def layer_params(layer: AnyLayer) -> int:
    """Return the trainable parameters of one layer."""
    return sum(prod(shape) for shape in weight_shapes(layer).values())


def layer_madds(layer: AnyLayer) -> int:
    """Return the multiply-accumulates of one layer for one image."""
    match layer:
        case primitives.ConvLayer():
            return prod(layer.shape) * layer.kernel**2 * (layer.in_channels // layer.groups)
        case primitives.LinearLayer():
            return layer.shape[0] * layer.in_features
        case _:
            return 0


def _kind(layer: AnyLayer) -> str:
    match layer:
        case primitives.ConvLayer():
            groups = f" groups {layer.groups}" if layer.groups > 1 else ""
            return f"conv {_window(layer)}{' depthwise' if layer.is_depthwise else groups}"
        case primitives.ActivationLayer():
            return layer.function.replace("_", "-")
        case primitives.PoolLayer():
            return f"{layer.function} pool {_window(layer)}"
        case primitives.AdaptivePoolLayer():
            side = layer.shape[-1]
            return "global pool" if side == 1 else f"average pool to {side}x{side}"
        case primitives.ShuffleLayer():
            return f"shuffle groups {layer.groups}"
        case primitives.NormLayer():
            return "batch norm"
        case primitives.SliceLayer():
            return "split"
        case _:
            return type(layer).__name__.removesuffix("Layer").lower()


def _window(layer: primitives.ConvLayer | primitives.PoolLayer) -> str:
    stride = f" /{layer.stride}" if layer.stride > 1 else ""
    return f"{layer.kernel}x{layer.kernel}{stride}"


def deployed_bytes(graph: Sequence[AnyLayer]) -> Bytes:
    """Return the bytes of the weights with batch norm folded: every convolution has a bias."""
    weights = biases = 0
    for layer in graph:
        if isinstance(layer, primitives.ConvLayer | primitives.LinearLayer):
            weights += prod(weight_shapes(layer)["weight"])
            biases += layer.shape[0]
    return Bytes(fp32=4 * weights + BIAS_BYTES * biases, int8=weights + BIAS_BYTES * biases)

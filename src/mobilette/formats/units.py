"""Graphs reduced to units: a convolution with what follows it, a pool, a join.

Both a file's graph and our own are reduced to these, so that they can be compared one to one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
    Shape,
)
from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.graph import (
    NO_PADDING,
    ActivationNode,
    ConvNode,
    Graph,
    JoinNode,
    Node,
    NormNode,
    PadNode,
    PoolNode,
)

Kind = Literal["input", "conv", "max", "average", "add", "concat", "scale"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OurUnit:
    """A part of our graph.

    Attributes:
        name: of the layer that gives it its shape.
        source_shape: of its first input, the network's input included.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()
    activation: Activation = "none"
    layer: ConvLayer | LinearLayer | PoolLayer | AdaptivePoolLayer | None = None
    source_shape: Shape = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class TheirUnit:
    """A part of a file's graph."""

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()
    activation: Activation = "none"
    conv: ConvNode | None = None
    norm: NormNode | None = None
    pool: PoolNode | None = None
    before: tuple[int, int, int, int] = NO_PADDING


def our_units(arch: Arch) -> dict[str, OurUnit]:
    """Return the units of ``arch`` by name, in the order of execution.

    Raises:
        InputError: the network has channel splits, shuffles or shortcuts that pad channels, which
            no format with a graph spells as one operation.
    """
    units = {INPUT: OurUnit(name=INPUT, kind="input")}
    unit_of: dict[str, str] = {INPUT: INPUT}  # layer to the unit that its output is
    shapes: dict[str, Shape] = {INPUT: (arch.in_channels, arch.resolution, arch.resolution)}
    for layer in layers(arch):
        shapes[layer.name] = layer.shape
        inputs = tuple(unit_of[name] for name in layer.inputs)
        source_shape = shapes[layer.inputs[0]]
        kind: Kind
        match layer:
            case NormLayer():
                unit_of[layer.name] = inputs[0]
                continue
            case FlattenLayer():  # what is flattened matters: files order it otherwise
                unit_of[layer.name], shapes[layer.name] = inputs[0], source_shape
                continue
            case ActivationLayer():
                unit_of[layer.name] = inputs[0]
                units[inputs[0]] = replace(units[inputs[0]], activation=layer.function)
                continue
            case ConvLayer() | LinearLayer():
                kind = "conv"
            case PoolLayer():
                kind = layer.function
            case AdaptivePoolLayer():
                # VGG's grid at its own resolution; files have no operation for it
                if layer.shape[1:] == source_shape[1:] != (1, 1):
                    unit_of[layer.name] = inputs[0]
                    continue
                kind = "average"
            case AddLayer():
                kind = "add"
            case ConcatLayer():
                kind = "concat"
            case ScaleLayer():
                kind = "scale"
            case _:
                raise InputError(
                    f"{arch.name} cannot be read from a file with a graph, for which {layer.name} "
                    "is no single operation; a state dict (.pth, .safetensors) is expected"
                )
        carries = ConvLayer | LinearLayer | PoolLayer | AdaptivePoolLayer
        units[layer.name] = OurUnit(
            name=layer.name,
            kind=kind,
            inputs=inputs,
            layer=layer if isinstance(layer, carries) else None,
            source_shape=source_shape,
        )
        unit_of[layer.name] = layer.name
    return units


def their_units(graph: Graph) -> tuple[dict[str, TheirUnit], str]:
    """Return the units of ``graph`` by name, in the order of execution, and that of the output.

    Raises:
        InputError: the graph is no network of ours: a batch norm without a convolution, an
            activation whose input is read elsewhere, padding before an addition.
    """
    return _Reduction(graph).run()


class _Reduction:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.units = {graph.input: TheirUnit(name=graph.input, kind="input")}
        self.unit_of = {graph.input: graph.input}
        self.padding: dict[str, tuple[int, int, int, int]] = {}
        self.readers = Counter(name for node in graph.nodes for name in node.inputs)

    def run(self) -> tuple[dict[str, TheirUnit], str]:
        for node in self.graph.nodes:
            for name in node.inputs:
                if name not in self.unit_of:
                    raise self.fault(node.name, f"reads {name!r}, which is nothing before it")
            match node:
                case ConvNode():
                    pad = self.padding.get(node.inputs[0], NO_PADDING)
                    self.add(node.name, "conv", node.inputs[:1], conv=node, before=pad)
                case PoolNode(kernel=1, stride=1, padding="same" | (0, 0, 0, 0)):
                    self.no_padding(node.name, node.inputs)
                    self.pass_on(node)
                case PoolNode():
                    pad = self.padding.get(node.inputs[0], NO_PADDING)
                    if pad != NO_PADDING and node.function == "max":
                        self.check_not_negative(node)
                    self.add(node.name, node.function, node.inputs[:1], pool=node, before=pad)
                case JoinNode():
                    self.no_padding(node.name, node.inputs)
                    self.add(node.name, node.function, node.inputs)
                case PadNode():
                    self.no_padding(node.name, node.inputs)
                    self.pass_on(node)
                    self.padding[node.name] = node.padding
                case NormNode():
                    self.extend(node, _norm(self.unit(node), node))
                case ActivationNode():
                    self.extend(node, _activation(self.unit(node), node.function))
                case _:
                    raise self.fault(node.name, "is of a kind that is not read")
        if self.graph.output not in self.unit_of:
            raise self.fault(self.graph.output, "is the output, but there is no such node")
        self.no_padding("output", (self.graph.output,))
        return self.units, self.unit_of[self.graph.output]

    def add(
        self,
        name: str,
        kind: Kind,
        inputs: tuple[str, ...],
        *,
        conv: ConvNode | None = None,
        pool: PoolNode | None = None,
        before: tuple[int, int, int, int] = NO_PADDING,
    ) -> None:
        self.units[name] = TheirUnit(
            name=name,
            kind=kind,
            inputs=tuple(self.unit_of[source] for source in inputs),
            conv=conv,
            pool=pool,
            before=before,
        )
        self.unit_of[name] = name

    def unit(self, node: Node) -> TheirUnit:
        return self.units[self.unit_of[node.inputs[0]]]

    def pass_on(self, node: Node) -> None:
        """Let the output of ``node`` be its input, whose other readers are its readers, too."""
        (source,) = node.inputs
        self.unit_of[node.name] = self.unit_of[source]
        self.readers[node.name] += self.readers[source] - 1

    def extend(self, node: Node, changed: TheirUnit | None) -> None:
        (source,) = node.inputs
        self.no_padding(node.name, (source,))
        if changed is None or self.readers[source] > 1:
            raise self.fault(node.name, f"follows {source!r} in a way that no network here has")
        self.units[changed.name] = changed
        self.unit_of[node.name] = changed.name

    def check_not_negative(self, node: PoolNode) -> None:
        """Raise `InputError` if zeros before a pool may be the largest: ours are not counted."""
        if self.unit(node).activation not in ("relu", "relu6"):
            raise self.fault(node.name, "is a max pool of padding zeros that may be the largest")

    def no_padding(self, name: str, inputs: tuple[str, ...]) -> None:
        for source in inputs:
            if self.padding.get(source, NO_PADDING) != NO_PADDING:
                raise self.fault(name, f"reads the padding {source!r}; a convolution is expected")

    def fault(self, name: str, what: str) -> InputError:
        return InputError(f"layer {name!r} {what}")


def _norm(unit: TheirUnit, norm: NormNode) -> TheirUnit | None:
    if unit.conv is None or unit.norm is not None or unit.activation != "none":
        return None
    if len(norm.mean) != len(unit.conv.weight):
        raise InputError(
            f"layer {norm.name!r} is a batch norm of {len(norm.mean)} channels behind a "
            f"convolution of {len(unit.conv.weight)}"
        )
    return replace(unit, norm=norm)


def _activation(unit: TheirUnit, function: Activation) -> TheirUnit | None:
    if unit.kind == "input" or unit.activation != "none":
        return None
    return replace(unit, activation=function)

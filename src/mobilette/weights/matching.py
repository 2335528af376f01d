"""A file's graph and an `Arch` are one network, or it is said where they part.

The two graphs are walked together from their outputs: kinds, shapes, strides and connections have
to be the same. How a convolution is spelled (bias, batch norm, activation, padding, epsilon) is
the file's: the `Arch` that comes back has it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import permutations

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs
from mobilette.arch.primitives import AdaptivePoolLayer, ConvLayer, LinearLayer, PoolLayer
from mobilette.arch.rows import Activation, Block, Conv, PoolLinear
from mobilette.errors import InputError
from mobilette.weights.graph import Graph
from mobilette.weights.padding import conv_padding, pixels
from mobilette.weights.tensors import conv_tensors, norm_tensors
from mobilette.weights.units import OurUnit, TheirUnit, our_units, their_units


def match(graph: Graph, arch: Arch) -> tuple[Arch, dict[str, Tensor], tuple[str, ...]]:
    """Return ``arch`` as ``graph`` spells it, its weights, and convolutions that were not needed.

    Raises:
        InputError: they are not the same network; the message names the first layer that differs.
    """
    ours, (theirs, output) = our_units(arch), their_units(graph)
    pairs = _Pairing(ours, theirs, graph.where).run(list(ours)[-1], output)
    convs = {
        name: (ours[name], theirs[other])
        for name, other in pairs.items()
        if ours[name].kind == "conv"
    }
    spelled = _spelled(arch, ours, pairs, theirs, graph.where)
    weights: dict[str, Tensor] = {}
    for name, (unit, other) in convs.items():
        assert isinstance(unit.layer, ConvLayer | LinearLayer)
        assert other.conv is not None
        weights |= conv_tensors(unit.layer, other.conv, flattened=unit.source_shape)
        if other.norm is not None:
            weights |= norm_tensors(name, other.norm, spelled)
    taken = set(pairs.values())
    left = tuple(name for name, u in theirs.items() if u.conv is not None and name not in taken)
    return spelled, weights, left


@dataclass
class _Pairing:
    """The walk through both graphs."""

    ours: dict[str, OurUnit]
    theirs: dict[str, TheirUnit]
    where: str
    pairs: dict[str, str] = field(default_factory=dict)
    # (place in the order of execution, what differs): the first that the walk met in each trial
    faults: list[tuple[int, str]] = field(default_factory=list)

    def run(self, output: str, their_output: str) -> dict[str, str]:
        self.order = {name: place for place, name in enumerate(self.ours)}
        if not self.pair(output, their_output):
            _, fault = max(self.faults)
            raise InputError(f"{self.where}: {fault}")
        return self.pairs

    def pair(self, ours: str, theirs: str) -> bool:
        """Whether everything up to ``ours`` is everything up to ``theirs``."""
        if ours in self.pairs:
            return self.pairs[ours] == theirs
        fault = self.differs(self.ours[ours], self.theirs[theirs])
        if fault:
            self.faults.append((-self.order[ours], fault))
            return False
        before = dict(self.pairs)
        for inputs in self.orders(self.theirs[theirs]):
            if all(map(self.pair, self.ours[ours].inputs, inputs)):
                self.pairs[ours] = theirs
                return True
            self.pairs = dict(before)
        return False

    def orders(self, unit: TheirUnit) -> list[tuple[str, ...]]:
        """Return the orders in which the inputs of ``unit`` may stand."""
        if unit.kind in ("add", "scale"):
            return list(permutations(unit.inputs))
        return [unit.inputs]

    def differs(self, ours: OurUnit, theirs: TheirUnit) -> str:
        """Return what differs between two units, connections aside; empty if nothing does."""
        if ours.kind != theirs.kind or len(ours.inputs) != len(theirs.inputs):
            return (
                f"{theirs.name!r} is {_kind(theirs.kind)} where the network has "
                f"{_kind(ours.kind)} ({ours.name})"
            )
        if (ours.activation == "none") != (theirs.activation == "none"):
            return (
                f"{theirs.name!r} ends in activation {theirs.activation!r}, but {ours.name} in "
                f"{ours.activation!r}"
            )
        mine, other = _shape(ours), _their_shape(theirs, ours)
        return "" if mine == other else f"{theirs.name!r} is {other}, but {ours.name} is {mine}"


def _kind(kind: str) -> str:
    return {"conv": "a convolution", "scale": "a product", "add": "a sum"}.get(kind, f"a {kind}")


def _shape(unit: OurUnit) -> str:
    match unit.layer:
        case ConvLayer() as conv:
            return _words(conv.kernel, conv.stride, conv.groups, conv.in_channels, conv.shape[0])
        case LinearLayer() as linear:
            return _words(1, 1, 1, linear.in_features, linear.shape[0])
        case AdaptivePoolLayer():
            return "over the whole map" if unit.layer.shape[1] == 1 else "over a grid"
        case PoolLayer() as pool:
            return f"{pool.kernel}x{pool.kernel}, stride {pool.stride}, padding {pool.padding}"
    return ""


def _their_shape(unit: TheirUnit, ours: OurUnit) -> str:
    if unit.conv is not None:
        out, each, kernel, width = unit.conv.weight.shape
        if kernel != width:
            return f"{kernel}x{width}"
        groups = unit.conv.groups
        return _words(kernel, unit.conv.stride, groups, each * groups, out)
    if unit.pool is None:
        return ""
    pool, side = unit.pool, ours.source_shape[1]
    around = set(
        pixels(unit.before, pool.padding, kernel=pool.kernel or side, stride=pool.stride, side=side)
    )
    if pool.kernel in (0, side) and around == {0}:
        return "over the whole map"
    padding = around.pop() if len(around) == 1 else "uneven"
    return f"{pool.kernel}x{pool.kernel}, stride {pool.stride}, padding {padding}"


def _words(kernel: int, stride: int, groups: int, inputs: int, outputs: int) -> str:
    depthwise = groups > 1 and groups == inputs == outputs
    kind = "depthwise" if depthwise else f"{groups} groups of" if groups > 1 else "full"
    return f"{kind} {kernel}x{kernel}, stride {stride}, {inputs} to {outputs} channels"


def _spelled(
    arch: Arch,
    ours: dict[str, OurUnit],
    pairs: dict[str, str],
    theirs: dict[str, TheirUnit],
    where: str,
) -> Arch:
    """Return ``arch`` with the biases, batch norms, activations and padding of the file."""

    def change(name: str, conv: Conv) -> Conv:
        unit = theirs[pairs[f"{name}.conv"]]
        assert unit.conv is not None
        padding = conv_padding(
            unit.before,
            unit.conv.padding,
            kernel=conv.kernel,
            stride=conv.stride,
            side=ours[f"{name}.conv"].source_shape[1],
            usual=conv.padding,
        )
        if padding is None:
            raise InputError(
                f"{where}: {unit.name!r} has padding {unit.before} and {unit.conv.padding}; "
                f"{name} is padded on all sides alike or as TensorFlow's SAME"
            )
        return replace(
            conv,
            bias=unit.conv.bias is not None,
            norm="none" if unit.norm is None else "batch",
            activation=unit.activation,
            padding=padding,
        )

    activations = {name: theirs[other].activation for name, other in pairs.items()}
    rows = tuple(
        replace(row, activation=_joined(f"rows.{number}", activations))
        if isinstance(row, Block) and row.paths
        else row
        for number, row in enumerate(arch.rows)
    )
    head = arch.head
    if isinstance(head, PoolLinear) and head.hidden:
        head = replace(head, activation=activations["head.hidden.0.linear"])
    epsilons = Counter(unit.norm.epsilon for unit in theirs.values() if unit.norm is not None)
    epsilon = epsilons.most_common(1)[0][0] if epsilons else arch.norm_epsilon
    return change_convs(replace(arch, rows=rows, head=head, norm_epsilon=epsilon), change)


def _joined(name: str, activations: dict[str, Activation]) -> Activation:
    return next(
        activations[f"{name}.{join}"]
        for join in ("add", "concat")
        if f"{name}.{join}" in activations
    )

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
from mobilette.arch.primitives import (
    AdaptivePoolLayer,
    ConvLayer,
    LinearLayer,
    PoolLayer,
    is_depthwise,
)
from mobilette.arch.rows import Activation, Block, Conv, PoolLinear
from mobilette.errors import InputError
from mobilette.formats.graph import Graph
from mobilette.formats.padding import conv_padding, pixels
from mobilette.formats.tensors import conv_tensors, norm_tensors
from mobilette.formats.units import Kind, OurUnit, TheirUnit, our_units, their_units


def match(graph: Graph, arch: Arch) -> tuple[Arch, dict[str, Tensor], tuple[str, ...]]:
    """Return ``arch`` as ``graph`` spells it, its weights, and convolutions that were not needed.

    Raises:
        InputError: they are not the same network; the message names the first layer that differs.
    """
    try:
        return _match(graph, arch)
    except InputError as error:
        raise InputError(f"{graph.where}: {error}") from None


def _match(graph: Graph, arch: Arch) -> tuple[Arch, dict[str, Tensor], tuple[str, ...]]:
    theirs, output = their_units(graph)
    first, _, _ = _compared(arch, theirs, output)
    # The file's padding may have changed the maps, and so what all padding comes to.
    spelled, ours, pairs = _compared(first, theirs, output)
    if spelled != first:
        raise InputError(f"its padding makes maps of other sizes than {arch.name} has")
    weights: dict[str, Tensor] = {}
    for name, other in pairs.items():
        unit, their_unit = ours[name], theirs[other]
        if isinstance(unit.layer, ConvLayer | LinearLayer):
            assert their_unit.conv is not None
            weights |= conv_tensors(unit.layer, their_unit.conv, flattened=unit.source_shape)
        if their_unit.norm is not None:
            weights |= norm_tensors(name, their_unit.norm, spelled)
    taken = set(pairs.values())
    left = tuple(name for name, u in theirs.items() if u.conv is not None and name not in taken)
    return spelled, weights, left


def _compared(
    arch: Arch, theirs: dict[str, TheirUnit], output: str
) -> tuple[Arch, dict[str, OurUnit], dict[str, str]]:
    """Return ``arch`` as the file spells it, its units, and to each of these the file's."""
    ours = our_units(arch)
    pairs = _Pairing(ours, theirs).run(list(ours)[-1], output)
    return _spelled(arch, ours, pairs, theirs), ours, pairs


@dataclass
class _Pairing:
    """The walk through both graphs."""

    ours: dict[str, OurUnit]
    theirs: dict[str, TheirUnit]
    pairs: dict[str, str] = field(default_factory=dict)
    # (place in the order of execution, what differs): the first that the walk met in each trial
    faults: list[tuple[int, str]] = field(default_factory=list)

    def run(self, output: str, their_output: str) -> dict[str, str]:
        self.order = {name: place for place, name in enumerate(self.ours)}
        if not self.pair(output, their_output):
            _, fault = max(self.faults)
            raise InputError(fault)
        return self.pairs

    def pair(self, ours: str, theirs: str) -> bool:
        """Whether everything up to ``ours`` is everything up to ``theirs``."""
        unit = self.ours[ours]
        if _averages_one_pixel(unit) and self.theirs[theirs].kind != "average":
            return self.pair(unit.inputs[0], theirs)  # a file may have a pool there, or none
        known = self.pairs.get(ours)
        if known == theirs:
            return True
        if known is None:
            fault = self.differs(unit, self.theirs[theirs])
        else:
            fault = f"{theirs!r} is read where {known!r} should be ({ours})"
        if fault:
            self.faults.append((-self.order[ours], fault))
            return False
        before = dict(self.pairs)
        for inputs in self.orders(self.theirs[theirs]):
            if all(map(self.pair, unit.inputs, inputs)):
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
        if isinstance(ours.layer, LinearLayer) and theirs.norm is not None:
            return f"{theirs.name!r} has a batch norm, but {ours.name} can have none"
        if isinstance(ours.layer, LinearLayer) and _is_padded(theirs):
            return f"{theirs.name!r} reads padding, but {ours.name} can have none"
        mine, other = _shape(ours), _their_shape(theirs, ours)
        return "" if mine == other else f"{theirs.name!r} is {other}, but {ours.name} is {mine}"


def _averages_one_pixel(unit: OurUnit) -> bool:
    return isinstance(unit.layer, AdaptivePoolLayer) and unit.source_shape[1:] == (1, 1)


def _is_padded(unit: TheirUnit) -> bool:
    assert unit.conv is not None
    return any(pixels(unit.before, unit.conv.padding, kernel=1, stride=1, side=1))


def _kind(kind: Kind) -> str:
    words = {
        "input": "the input",
        "conv": "a convolution",
        "max": "a max pool",
        "average": "an average pool",
        "add": "a sum",
        "concat": "a concatenation",
        "scale": "a product",
    }
    return words[kind]


def _shape(unit: OurUnit) -> str:
    match unit.layer:
        case ConvLayer() as conv:
            return _words(conv.kernel, conv.stride, conv.groups, conv.in_channels, conv.shape[0])
        case LinearLayer() as linear:
            return _words(1, 1, 1, linear.in_features, linear.shape[0])
        case AdaptivePoolLayer():
            return "over the whole map" if unit.layer.shape[1] == 1 else "over a grid"
        case PoolLayer() as pool:
            return _window(pool.kernel, pool.stride, str(pool.padding), pool.shape[1])
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
    kernel = pool.kernel or side
    around = pixels(unit.before, pool.padding, kernel=kernel, stride=pool.stride, side=side)
    if kernel == side and not any(around):
        return "over the whole map"
    alike = len(set(around)) == 1
    return _window(
        kernel,
        pool.stride,
        str(around[0]) if alike else "uneven",
        (side + around[0] + around[1] - kernel) // pool.stride + 1,
    )


def _window(kernel: int, stride: int, padding: str, side: int) -> str:
    return f"{kernel}x{kernel}, stride {stride}, padding {padding}, to {side}x{side} pixels"


def _words(kernel: int, stride: int, groups: int, inputs: int, outputs: int) -> str:
    depthwise = is_depthwise(groups, inputs, outputs)
    kind = "depthwise" if depthwise else f"{groups} groups of" if groups > 1 else "full"
    return f"{kind} {kernel}x{kernel}, stride {stride}, {inputs} to {outputs} channels"


def _spelled(
    arch: Arch,
    ours: dict[str, OurUnit],
    pairs: dict[str, str],
    theirs: dict[str, TheirUnit],
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
                f"{unit.name!r} has padding {unit.before} and {unit.conv.padding}; "
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
        found = {activations[f"head.hidden.{number}.linear"] for number in range(len(head.hidden))}
        if len(found) > 1:
            raise InputError(
                f"its hidden layers have two activations, {' and '.join(sorted(found))}"
            )
        head = replace(head, activation=found.pop())
    epsilons = Counter(unit.norm.epsilon for unit in theirs.values() if unit.norm is not None)
    epsilon = epsilons.most_common(1)[0][0] if epsilons else arch.norm_epsilon
    return change_convs(replace(arch, rows=rows, head=head, norm_epsilon=epsilon), change)


def _joined(name: str, activations: dict[str, Activation]) -> Activation:
    return next(
        activations[f"{name}.{join}"]
        for join in ("add", "concat")
        if f"{name}.{join}" in activations
    )

"""Matches a state dict with nobody's names by the order and the shapes of its tensors.

PyTorch lists tensors in the order in which modules were registered, mostly that of execution. The
usual deviations are tried: norms registered before their convolutions or behind several of them, a
shortcut before the other path, gates behind a block, the classifier first. A file is read only if
every tensor has its place, and the same place in all orders that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, NormLayer, Shape
from mobilette.arch.rows import Block, Conv, SqueezeExcite
from mobilette.formats.file_layers import NORM
from mobilette.formats.torch.name_tables import COUNTER, first_weights

CLASSIFIER = "head.classifier"
Norms = Literal["behind", "before", "path", "block", "apart"]
Weighted = ConvLayer | LinearLayer | NormLayer
Module = Mapping[str, Tensor]  # tensors by their last name
_Path = list[tuple[bool, list[Weighted]]]  # steps: whether it is a gate, its layers


@dataclass(frozen=True, kw_only=True)
class _Order:
    """An order in which the modules of a network may be registered.

    Attributes:
        norms: ``behind`` or ``before`` each convolution, behind the convolutions of a ``path`` or
            a ``block``, or ``apart``, behind all.
        last_path_first: whether a block's last path, the shortcut, is before the others.
        gates_last: whether squeeze-and-excitation is behind the rest of its path.
        classifier_first: whether the classifier is the first module.
        norms_otherwise: whether norms apart from their convolutions have the paths in another order
            than these; as nobody can tell, such a file is refused where shapes do not.
    """

    norms: Norms
    last_path_first: bool
    gates_last: bool
    classifier_first: bool
    norms_otherwise: bool = False


NORMS: tuple[Norms, ...] = ("behind", "before", "path", "block", "apart")
BOTH = (False, True)
ORDERS = tuple(
    _Order(norms=norms, last_path_first=shortcut, gates_last=gates, classifier_first=first)
    for norms, shortcut, gates, first in product(NORMS, BOTH, BOTH, BOTH)
)
ORDERS += tuple(
    replace(order, norms_otherwise=True) for order in ORDERS if order.norms in ("block", "apart")
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Graph:
    """The layers of a network that have weights.

    Attributes:
        rows: of each row what comes before its paths, and its paths.
        readers: the layers that read the image.
    """

    rows: list[list[_Path]]
    head: list[Weighted]
    names: list[str]
    readers: set[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class InOrder:
    """The tensors of a file by our names.

    Attributes:
        arch: with the file's biases.
        names: our name of a tensor to the file's.
        has_classifier: otherwise the file ends before it.
    """

    arch: Arch
    names: dict[str, str]
    has_classifier: bool


def match_in_order(tensors: Mapping[str, Tensor], arch: Arch) -> InOrder | str:
    """Return the tensors' places in ``arch``, whatever its classes and input channels, or why not.

    The reason begins with the first tensor that has no place in the order that fits furthest.
    """
    modules = _modules(tensors)
    for name, module in modules.items():
        strange = next((part for part in module if part not in (*NORM, COUNTER)), None)
        if strange is not None or not module.keys() & {"weight", "running_mean"}:
            part = strange or next(iter(module))
            full = f"{name}.{part}".strip(".")
            return f"tensor {full!r:.80} is not one of a convolution, linear layer or batch norm"
    graph = _graph(arch)
    found: dict[tuple[str, ...], bool] = {}
    furthest, fault = -1, ""
    for order, has_classifier in product(ORDERS, (True, False)):
        ours = _ordered(graph, order, has_classifier=has_classifier)
        place = _first_difference(ours, modules, graph)
        if place is None:
            by_name = dict(zip((layer.name for layer in ours), modules, strict=True))
            found[tuple(by_name.get(name, "") for name in graph.names)] = has_classifier
        elif place > furthest:
            furthest, fault = place, _fault(ours, modules, place)
    if not found:
        return fault
    if len(found) > 1:
        several = zip(graph.names, *list(found)[:2], strict=True)
        name, first, second = next(each for each in several if each[1] != each[2])
        return f"they fit in two orders: {name} could be {first!r:.60} or {second!r:.60}"
    ((places, has_classifier),) = found.items()
    at = {name: place for name, place in zip(graph.names, places, strict=True) if place}
    names = {
        f"{ours}.{part}": f"{theirs}.{part}".strip(".")
        for ours, theirs in at.items()
        for part in modules[theirs]
    }

    def with_bias(name: str, conv: Conv) -> Conv:
        has_bias = f"{name}.conv.bias" in names or name == CLASSIFIER
        return replace(conv, bias=has_bias) if conv.bias != has_bias else conv

    return InOrder(arch=change_convs(arch, with_bias), names=names, has_classifier=has_classifier)


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by module and last name, modules in the order of their first tensors."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = tensor
    return modules


def _first_difference(
    ours: Sequence[Weighted], modules: Mapping[str, Module], graph: _Graph
) -> int | None:
    """Return the place of the first module that differs, or ``None``."""
    for place, (layer, module) in enumerate(zip(ours, modules.values(), strict=False)):
        if not _fits(layer, module, is_first=layer.name in graph.readers):
            return place
    return None if len(ours) == len(modules) else min(len(ours), len(modules))


def _fits(layer: Weighted, module: Module, *, is_first: bool) -> bool:
    """Whether a module has the tensors of ``layer``."""
    if isinstance(layer, NormLayer):
        return all(name in module and tuple(module[name].shape) == layer.shape[:1] for name in NORM)
    if not {"weight"} <= module.keys() <= {"weight", "bias"}:
        return False
    given, wanted = _squeezed(tuple(module["weight"].shape)), _squeezed(weight_shape(layer))
    if layer.name.startswith(CLASSIFIER):
        wanted = (*given[:1], *wanted[1:])
    if is_first:
        wanted = (*wanted[:1], *given[1:2], *wanted[2:])
    bias = module.get("bias")
    return given == wanted and (bias is None or tuple(bias.shape) == given[:1])


def weight_shape(layer: ConvLayer | LinearLayer) -> Shape:
    """Return the shape of a layer's weight."""
    if isinstance(layer, LinearLayer):
        return layer.shape[0], layer.in_features
    return layer.shape[0], layer.in_channels // layer.groups, layer.kernel, layer.kernel


def _squeezed(shape: Shape) -> Shape:
    """Return the shape of a linear layer for that of a 1x1 convolution."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _fault(ours: Sequence[Weighted], modules: Mapping[str, Module], place: int) -> str:
    if place == len(modules):
        return f"it ends before {ours[place].name}"
    name, module = list(modules.items())[place]
    part = "weight" if "weight" in module else next(iter(module))
    shape = "x".join(map(str, module[part].shape)) or "one number"
    full = f"{name}.{part}".strip(".")
    if place == len(ours):
        return f"tensor {full!r:.80} of {shape} comes after the end"
    layer = ours[place]
    is_norm = isinstance(layer, NormLayer)
    wanted = "x".join(map(str, layer.shape[:1] if is_norm else weight_shape(layer)))  # type: ignore[arg-type]
    kind = "a batch norm" if is_norm else "a weight"
    return f"tensor {full!r:.80} of {shape} has no place: {layer.name} is {kind} of {wanted}"


def _ordered(graph: _Graph, order: _Order, *, has_classifier: bool) -> list[Weighted]:
    """Return the layers with weights in the given order of registration."""
    if order.norms_otherwise:
        usual = replace(order, norms_otherwise=False)
        other = replace(usual, last_path_first=not order.last_path_first)
        ours, theirs = (
            _ordered(graph, each, has_classifier=has_classifier) for each in (usual, other)
        )
        norms = (layer for layer in theirs if isinstance(layer, NormLayer))
        return [next(norms) if isinstance(layer, NormLayer) else layer for layer in ours]
    found: list[Weighted] = []
    for entry, *paths in graph.rows:
        steps = [entry, *(paths[-1:] + paths[:-1] if order.last_path_first else paths)]
        made = [_path(path, order) for path in steps]
        found += _spread(made, order.norms == "block")
    head = [layer for layer in graph.head if has_classifier or not _is_top(layer)]
    if order.classifier_first:
        found = [*filter(_is_top, head), *found, *(x for x in head if not _is_top(x))]
    else:
        found += head
    if order.norms == "before":
        found = list(_swapped(found))
    return _spread([found], order.norms == "apart")


def _path(steps: _Path, order: _Order) -> list[Weighted]:
    """Return the layers of one path."""
    if order.gates_last:
        steps = sorted(steps, key=lambda step: step[0])
    return _spread([step for _, step in steps], order.norms == "path")


def _is_top(layer: Weighted) -> bool:
    return layer.name.startswith((CLASSIFIER, "head.hidden."))


def _spread(paths: Sequence[Sequence[Weighted]], norms_last: bool) -> list[Weighted]:
    """Return the layers of several paths, their norms behind all others if asked for."""
    every = [layer for path in paths for layer in path]
    return sorted(every, key=lambda layer: isinstance(layer, NormLayer)) if norms_last else every


def _swapped(found: list[Weighted]) -> Iterator[Weighted]:
    """Yield the layers with every norm in front of its convolution."""
    waiting: Weighted | None = None
    for layer in found:
        if isinstance(layer, NormLayer):
            yield layer
        if waiting is not None:
            yield waiting
        waiting = None if isinstance(layer, NormLayer) else layer
    if waiting is not None:
        yield waiting


def _graph(arch: Arch) -> _Graph:
    weighted = [layer for layer in layers(arch) if isinstance(layer, Weighted)]

    def within(prefix: str) -> list[Weighted]:
        return [layer for layer in weighted if layer.name.startswith(prefix)]

    rows: list[list[_Path]] = [[[(False, within("stem."))]]]
    for number, row in enumerate(arch.rows):
        name = f"rows.{number}."
        if isinstance(row, Block):
            rows.append(
                [
                    [
                        (isinstance(step.operation, SqueezeExcite), within(f"{name}{step.name}."))
                        for step in path
                    ]
                    for path in (row.entry, *row.paths)
                ]
            )
        else:
            rows.append([[(False, within(name))]])
    return _Graph(
        rows=rows,
        head=within("head."),
        names=[layer.name for layer in weighted],
        readers={name.removesuffix(".weight") for name in first_weights(arch)},
    )

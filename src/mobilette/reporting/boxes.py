"""The boxes of a diagram: each describes one operation in a few words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    ActivationLayer,
    AdaptivePoolLayer,
    AnyLayer,
    ConvLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    Shape,
    ShuffleLayer,
    SubsampleLayer,
)
from mobilette.counting.cost import cost

Kind = Literal[
    "full convolution",
    "pointwise",
    "depthwise",
    "grouped",
    "squeeze-excite",
    "shuffle",
    "pool",
    "linear",
]


@dataclass(frozen=True, kw_only=True)
class Box:
    """One operation.

    Attributes:
        layer: its name, as in cost tables and state dicts.
        title: the last word of its name, or what it does.
        lines: kernel, stride, channels, groups, activation, as one or two lines of text.
        shape: of its output.
    """

    layer: str
    title: str
    lines: tuple[str, ...]
    kind: Kind
    shape: Shape
    params: int
    madds: int


class Boxes:
    """The boxes of a network's operations, by name."""

    def __init__(self, arch: Arch) -> None:
        self._layers: Mapping[str, AnyLayer] = {layer.name: layer for layer in layers(arch)}
        # The layers below each name: rows.3, rows.3.expand, ...
        self._parts: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._layers:
            for word in accumulate(name.split("."), "{}.{}".format):
                self._parts[word].append(name)
        self._costs = {line.name: (line.params, line.madds) for line in cost(arch).layers}

    def shape(self, name: str) -> Shape:
        """Return the shape after the last layer of the row or operation called ``name``."""
        return self._layers[self._parts[name][-1]].shape

    def costs(self, name: str) -> tuple[int, int]:
        """Return (parameters, mult-adds) of the row or operation called ``name``."""
        costs = [self._costs[part] for part in self._parts[name]]
        return sum(params for params, _ in costs), sum(madds for _, madds in costs)

    def norms(self) -> str:
        """Return a note on which convolutions have a batch norm."""
        convs = {name for name, x in self._layers.items() if isinstance(x, ConvLayer)}
        normed = {x.inputs[0] for x in self._layers.values() if isinstance(x, NormLayer)} & convs
        if not normed:
            return "no batch norm"
        if normed == convs:
            return "batch norm after every convolution"
        return f"batch norm after {len(normed)} of {len(convs)} convolutions"

    def head(self) -> tuple[Box, ...]:
        """Return the head's boxes, in the order of execution."""
        drawn = ConvLayer | LinearLayer | AdaptivePoolLayer
        return tuple(
            self.box(name.removesuffix(".conv").removesuffix(".linear"), name.split(".")[1])
            for name in self._parts["head"]
            if isinstance(self._layers[name], drawn)
        )

    def box(self, name: str, title: str) -> Box:
        """Return the box of the operation ``name``, called ``title`` within its row."""
        own, lines, kind = self._describe(name)
        params, madds = self.costs(name)
        return Box(
            layer=name,
            title=own or title.rpartition("_")[2],
            lines=tuple(line for line in lines if line),
            kind=kind,
            shape=self.shape(name),
            params=params,
            madds=madds,
        )

    def _activation(self, name: str) -> str:
        layer = self._layers.get(f"{name}.activation")
        return spelled(layer.function) if isinstance(layer, ActivationLayer) else ""

    def _describe(self, name: str) -> tuple[str, tuple[str, ...], Kind]:
        """Return the title, if it is not the name, the lines and the kind."""
        if f"{name}.scale" in self._layers:
            channels, reduced = self.shape(name)[0], self.shape(f"{name}.reduce")[0]
            used = (self._activation(f"{name}.{part}") for part in ("reduce", "expand"))
            widths = f"→ {reduced:,} → {channels:,}"
            return "squeeze-excite", (widths, ", ".join(filter(None, used))), "squeeze-excite"
        if f"{name}.cheap.conv" in self._layers:
            half, channels = self.shape(f"{name}.primary")[0], self.shape(name)[0]
            activation = self._activation(f"{name}.cheap")
            return "ghost", (f"1×1 → {half:,} → {channels:,}", activation), "pointwise"
        if isinstance(conv := self._layers.get(f"{name}.conv1.conv"), ConvLayer):
            norms = (isinstance(self._layers[part], NormLayer) for part in self._parts[name])
            note = ", ".join(filter(None, (f"{sum(norms)} branches", self._activation(name))))
            title, described, kind = _describe_conv(conv, "")
            return title, (described[0], note), kind
        parts = (f"{name}.conv", f"{name}.linear", name)
        layer = next(self._layers[part] for part in parts if part in self._layers)
        return _describe(layer, self._activation(name))


def spelled(name: str) -> str:
    """Return a name with hyphens: ``hard-swish``."""
    return name.replace("_", "-")


def _describe(layer: AnyLayer, activation: str) -> tuple[str, tuple[str, ...], Kind]:
    match layer:
        case ConvLayer():
            return _describe_conv(layer, activation)
        case LinearLayer():
            return "", (f"linear → {layer.shape[0]:,}", activation), "linear"
        case PoolLayer():
            window = f"{layer.kernel}×{layer.kernel}{_stride(layer.stride)}"
            return f"{layer.function} pool", (window,), "pool"
        case AdaptivePoolLayer(shape=(_, _, 1)):
            return "global pool", ("average → 1×1",), "pool"
        case AdaptivePoolLayer():
            return "average pool", (f"→ {layer.shape[1]}×{layer.shape[2]}",), "pool"
        case ShuffleLayer():
            return "shuffle", (f"{layer.groups} groups",), "shuffle"
        case SubsampleLayer():
            grown = f"→ {layer.shape[0]:,}, zero-padded"
            return "", (f"subsample{_stride(layer.stride)}", grown), "pool"
        case _:
            raise TypeError(f"{layer.name}: a {type(layer).__name__} has no box of its own")


def _describe_conv(layer: ConvLayer, activation: str) -> tuple[str, tuple[str, ...], Kind]:
    kernel = f"{layer.kernel}×{layer.kernel}{_stride(layer.stride)} → {layer.shape[0]:,}"
    groups = ""
    kind: Kind = "full convolution" if layer.kernel > 1 else "pointwise"
    if layer.is_depthwise:
        kind = "depthwise"
        groups = "" if ".depthwise." in layer.name else "depthwise"
    elif layer.groups > 1:
        kind, groups = "grouped", f"{layer.groups} groups"
    return "", (kernel, ", ".join(filter(None, (groups, activation)))), kind


def _stride(stride: int) -> str:
    return f" /{stride}" if stride > 1 else ""

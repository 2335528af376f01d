"""`Arch` to a flat graph of named primitive layers with shapes.

Counting, pruning, import and export read this graph; a test ties `mobilette.nn` to it layer by
layer. Layers stand in the order in which they are executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

from mobilette.arch.arch import Arch
from mobilette.arch.rows import (
    Activation,
    Bottleneck,
    Conv,
    Head,
    Padding,
    PoolLinear,
    PoolLinearLinear,
    Row,
    Separable,
    SqueezeExcite,
)
from mobilette.errors import InputError

INPUT = "input"
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What every layer has.

    Attributes:
        name: its name everywhere: state dict, cost table, exported nodes.
        inputs: the layers (or ``input``) whose outputs it reads.
        shape: of its output without the batch: (channels, height, width) or (features,).
    """

    name: str
    inputs: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class ConvLayer(Layer):
    """A 2-d convolution."""

    in_channels: int
    kernel: int
    stride: int
    groups: int
    padding: Padding
    bias: bool


@dataclass(frozen=True, kw_only=True)
class LinearLayer(Layer):
    """A fully connected layer with bias."""

    in_features: int


@dataclass(frozen=True, kw_only=True)
class NormLayer(Layer):
    """A batch norm with scale and shift."""


@dataclass(frozen=True, kw_only=True)
class ActivationLayer(Layer):
    """An element-wise non-linearity."""

    function: Activation


@dataclass(frozen=True, kw_only=True)
class GlobalPoolLayer(Layer):
    """The average over all positions: (channels, height, width) to (channels, 1, 1)."""


@dataclass(frozen=True, kw_only=True)
class FlattenLayer(Layer):
    """(channels, 1, 1) to (channels,)."""


@dataclass(frozen=True, kw_only=True)
class AddLayer(Layer):
    """The sum of its two inputs."""


@dataclass(frozen=True, kw_only=True)
class ScaleLayer(Layer):
    """The first input times the second, one factor a channel."""


AnyLayer = (
    ConvLayer
    | LinearLayer
    | NormLayer
    | ActivationLayer
    | GlobalPoolLayer
    | FlattenLayer
    | AddLayer
    | ScaleLayer
)


@lru_cache(maxsize=256)
def layers(arch: Arch) -> tuple[AnyLayer, ...]:
    """Return the primitive layers of ``arch`` in the order of execution.

    Raises:
        InputError: the rows do not fit together; the message names the row and the numbers.
    """
    graph = _Graph((arch.in_channels, arch.resolution, arch.resolution))
    graph.conv("stem", arch.stem)
    for number, row in enumerate(arch.rows):
        graph.row(f"rows.{number}", row)
    graph.head(arch.head)
    return tuple(graph.layers)


class _Graph:
    """The layers so far, and the name and shape of the last output."""

    def __init__(self, shape: Shape) -> None:
        self.layers: list[AnyLayer] = []
        self.last = INPUT
        self.shape = shape

    def append(self, layer: AnyLayer) -> None:
        self.layers.append(layer)
        self.last, self.shape = layer.name, layer.shape

    def row(self, name: str, row: Row) -> None:
        match row:
            case Conv():
                self.conv(name, row)
            case Separable():
                self.conv(f"{name}.depthwise", row.depthwise)
                self.conv(f"{name}.pointwise", row.pointwise)
            case Bottleneck():
                self.bottleneck(name, row)
            case _:
                assert_never(row)

    def conv(self, name: str, conv: Conv) -> None:
        channels, height, width = self.shape
        if channels % conv.groups:
            raise InputError(f"{name}: groups {conv.groups} do not divide {channels} channels")
        self.append(
            ConvLayer(
                name=f"{name}.conv",
                inputs=(self.last,),
                shape=(conv.channels, _out_size(height, conv), _out_size(width, conv)),
                in_channels=channels,
                kernel=conv.kernel,
                stride=conv.stride,
                groups=conv.groups,
                padding=conv.padding,
                bias=conv.bias,
            )
        )
        if conv.norm == "batch":
            self.append(NormLayer(name=f"{name}.norm", inputs=(self.last,), shape=self.shape))
        self.activation(name, conv.activation)

    def activation(self, name: str, function: Activation) -> None:
        if function != "none":
            self.append(
                ActivationLayer(
                    name=f"{name}.activation",
                    inputs=(self.last,),
                    shape=self.shape,
                    function=function,
                )
            )

    def pool(self, name: str) -> None:
        shape = (self.shape[0], 1, 1)
        self.append(GlobalPoolLayer(name=f"{name}.pool", inputs=(self.last,), shape=shape))

    def bottleneck(self, name: str, row: Bottleneck) -> None:
        source, shape = self.last, self.shape
        if row.expand is not None:
            self.conv(f"{name}.expand", row.expand)
        self.conv(f"{name}.depthwise", row.depthwise)
        if row.squeeze_excite is not None:
            self.squeeze_excite(f"{name}.squeeze_excite", row.squeeze_excite)
        self.conv(f"{name}.project", row.project)
        if row.residual:
            if shape != self.shape:
                raise InputError(
                    f"{name}: a residual needs equal shapes, {shape} in and {self.shape} out"
                )
            self.append(AddLayer(name=f"{name}.add", inputs=(source, self.last), shape=self.shape))

    def squeeze_excite(self, name: str, block: SqueezeExcite) -> None:
        source, shape = self.last, self.shape
        if block.expand.channels != shape[0]:
            raise InputError(
                f"{name}: {block.expand.channels} factors for {shape[0]} channels; "
                "the two must be equal"
            )
        self.pool(name)
        self.conv(f"{name}.reduce", block.reduce)
        self.conv(f"{name}.expand", block.expand)
        self.append(ScaleLayer(name=f"{name}.scale", inputs=(source, self.last), shape=shape))

    def head(self, head: Head) -> None:
        self.pool("head")
        flat = (self.shape[0],)
        self.append(FlattenLayer(name="head.flatten", inputs=(self.last,), shape=flat))
        match head:
            case PoolLinear():
                pass
            case PoolLinearLinear():
                self.linear("head.hidden", head.hidden)
                self.activation("head", head.activation)
            case _:
                assert_never(head)
        self.linear("head.classifier", head.classes)

    def linear(self, name: str, features: int) -> None:
        self.append(
            LinearLayer(
                name=name, inputs=(self.last,), shape=(features,), in_features=self.shape[0]
            )
        )


def _out_size(size: int, conv: Conv) -> int:
    """Return ceil(size / stride): with odd kernels both kinds of padding give the same size."""
    return -(-size // conv.stride)

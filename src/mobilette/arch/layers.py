"""Expand an `Arch` to a flat graph of named primitive layers with shapes, in execution order.

This is the only interpretation of rows.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import assert_never

from mobilette.arch.arch import Arch
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    DropoutLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
    Shape,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
    output_side,
    symmetric_padding,
)
from mobilette.arch.rows import (
    Activation,
    BatchNorm,
    Block,
    Branch,
    ChannelShuffle,
    Conv,
    ConvPool,
    Ghost,
    Head,
    Operation,
    Pool,
    PoolConvLinear,
    Row,
    SqueezeExcite,
    Subsample,
)
from mobilette.errors import InputError


@lru_cache(maxsize=256)
def layers(arch: Arch) -> tuple[AnyLayer, ...]:
    """Return the primitive layers of ``arch`` in execution order, as in inference.

    Raises:
        InputError: the rows do not fit together; the message names the row and the numbers.
    """
    graph: list[AnyLayer] = []
    source: dict[str, str] = {}
    for layer in training_layers(arch):
        inputs = tuple(source.get(name, name) for name in layer.inputs)
        if isinstance(layer, DropoutLayer):
            source[layer.name] = inputs[0]
        else:
            graph.append(layer if inputs == layer.inputs else replace(layer, inputs=inputs))
    return tuple(graph)


@lru_cache(maxsize=32)
def training_layers(arch: Arch) -> tuple[AnyLayer | DropoutLayer, ...]:
    """Return the result of `layers` with dropout.

    Raises:
        InputError: the rows do not fit together.
    """
    graph = _Graph(arch.shape)
    graph.row("stem", arch.stem)
    for number, row in enumerate(arch.rows):
        graph.row(f"rows.{number}", row)
    graph.head(arch.head)
    return tuple(graph.layers)


def conv_layer(name: str, conv: Conv, shape: Shape) -> ConvLayer:
    """Return the layer of a single convolution for an input ``shape`` (channels, height, width).

    Raises:
        InputError: it does not fit the shape.
    """
    graph = _Graph(shape)
    graph.conv(name, conv)
    layer = graph.layers[0]
    assert isinstance(layer, ConvLayer)
    return layer


class _Graph:
    """The layers so far, and the name and shape of the last output."""

    def __init__(self, shape: Shape) -> None:
        self.layers: list[AnyLayer | DropoutLayer] = []
        self.last = INPUT
        self.shape = shape

    def append(self, layer: AnyLayer | DropoutLayer) -> None:
        self.layers.append(layer)
        self.last, self.shape = layer.name, layer.shape

    def append_window(self, layer: ConvLayer | PoolLayer | SubsampleLayer) -> None:
        """Append a layer whose ``shape`` has its output channels and its input's sides."""
        channels, *sides = layer.shape
        outputs = [output_side(layer, side) for side in sides]
        self.append(layer if outputs == sides else replace(layer, shape=(channels, *outputs)))

    def row(self, name: str, row: Row) -> None:
        if isinstance(row, Block):
            self.block(name, row)
        else:
            self.operation(name, row)

    def block(self, name: str, block: Block) -> None:
        self.path(name, block.entry)
        if block.paths:
            self.join(name, block, self.split(name, block))
        self.activation(name, block.activation)
        if block.shuffle:
            self.shuffle(f"{name}.shuffle", block.shuffle)

    def path(self, name: str, path: Branch) -> None:
        for step in path:
            self.operation(f"{name}.{step.name}", step.operation)

    def operation(self, name: str, operation: Operation) -> None:
        match operation:
            case Conv():
                self.conv(name, operation)
            case Pool():
                self.pool(name, operation)
            case SqueezeExcite():
                self.squeeze_excite(name, operation)
            case ChannelShuffle():
                self.shuffle(name, operation.groups)
            case Subsample():
                self.subsample(name, operation)
            case Ghost():
                self.ghost(name, operation)
            case BatchNorm():
                self.norm(name)
            case _:
                assert_never(operation)

    def split(self, name: str, block: Block) -> list[tuple[str, Shape]]:
        """Return name and shape of the input of each path of ``block``."""
        source, (channels, *sides) = self.last, self.shape
        if not block.split:
            return [(source, self.shape)] * len(block.paths)
        if channels % 2:
            raise InputError(f"{name}: {channels} channels cannot be split in two halves")
        half = channels // 2
        shape = (half, *sides)
        for number, begin in enumerate((0, half)):
            part = f"{name}.split.{number}"
            self.append(SliceLayer(part, (source,), shape, begin=begin, end=begin + half))
        return [(f"{name}.split.{number}", shape) for number in (0, 1)]

    def join(self, name: str, block: Block, begins: list[tuple[str, Shape]]) -> None:
        ends = []
        for path, begin in zip(block.paths, begins, strict=True):
            self.last, self.shape = begin
            self.path(name, path)
            ends.append((self.last, self.shape))
        inputs = tuple(end for end, _ in ends)
        shapes = [shape for _, shape in ends]
        alike = shapes if block.join == "add" else [shape[1:] for shape in shapes]
        if len(set(alike)) > 1:
            listed = " and ".join("x".join(map(str, shape)) for shape in shapes)
            raise InputError(f"{name}: paths of {listed} cannot be joined by {block.join}")
        if block.join == "add":
            self.append(AddLayer(f"{name}.add", inputs, self.shape))
        else:
            self.concat(name, inputs, sum(shape[0] for shape in shapes))

    def conv(self, name: str, conv: Conv) -> None:
        channels = self.shape[0]
        if channels % conv.groups:
            raise InputError(f"{name}: groups {conv.groups} do not divide {channels} channels")
        self.append_window(
            ConvLayer(
                f"{name}.conv",
                (self.last,),
                (conv.channels, *self.shape[1:]),
                in_channels=channels,
                kernel=conv.kernel,
                stride=conv.stride,
                groups=conv.groups,
                padding=conv.padding,
                bias=conv.bias,
            )
        )
        if conv.norm == "batch":
            self.norm(name)
        self.activation(name, conv.activation)

    def norm(self, name: str) -> None:
        self.append(NormLayer(f"{name}.norm", (self.last,), self.shape))

    def ghost(self, name: str, module: Ghost) -> None:
        self.conv(f"{name}.primary", module.primary)
        primary = self.last
        self.conv(f"{name}.cheap", module.cheap)
        self.concat(name, (primary, self.last), module.primary.channels + module.cheap.channels)

    def concat(self, name: str, inputs: tuple[str, ...], channels: int) -> None:
        self.append(ConcatLayer(f"{name}.concat", inputs, (channels, *self.shape[1:])))

    def activation(self, name: str, function: Activation) -> None:
        if function != "none":
            name = f"{name}.activation"
            self.append(ActivationLayer(name, (self.last,), self.shape, function=function))

    def dropout(self, name: str, probability: float) -> None:
        if probability:
            name = f"{name}.dropout"
            self.append(DropoutLayer(name, (self.last,), self.shape, probability=probability))

    def pool(self, name: str, pool: Pool) -> None:
        self.append_window(
            PoolLayer(
                name,
                (self.last,),
                self.shape,
                function=pool.function,
                kernel=pool.kernel,
                stride=pool.stride,
                padding=symmetric_padding(pool.kernel) if pool.padding == "symmetric" else 0,
                ceil_mode=pool.ceil_mode,
            )
        )

    def adaptive_pool(self, name: str, size: int) -> None:
        self.append(AdaptivePoolLayer(f"{name}.pool", (self.last,), (self.shape[0], size, size)))

    def shuffle(self, name: str, groups: int) -> None:
        if self.shape[0] % groups:
            raise InputError(f"{name}: groups {groups} do not divide {self.shape[0]} channels")
        self.append(ShuffleLayer(name, (self.last,), self.shape, groups=groups))

    def subsample(self, name: str, operation: Subsample) -> None:
        added = operation.channels - self.shape[0]
        if added < 0 or added % 2:
            raise InputError(
                f"{name}: {self.shape[0]} channels cannot grow to {operation.channels} by zeros, "
                "half of them on either side"
            )
        self.append_window(
            SubsampleLayer(
                name,
                (self.last,),
                (operation.channels, *self.shape[1:]),
                stride=operation.stride,
                new_channels=added,
            )
        )

    def squeeze_excite(self, name: str, block: SqueezeExcite) -> None:
        source, shape = self.last, self.shape
        if block.expand.channels != shape[0]:
            raise InputError(
                f"{name}: {block.expand.channels} factors for {shape[0]} channels; "
                "the two must be equal"
            )
        self.adaptive_pool(name, 1)
        self.conv(f"{name}.reduce", block.reduce)
        self.conv(f"{name}.expand", block.expand)
        self.append(ScaleLayer(f"{name}.scale", (source, self.last), shape))

    def head(self, head: Head) -> None:
        if isinstance(head, ConvPool):
            self.dropout("head", head.dropout)
            self.conv("head.classifier", head.classifier)
            self.adaptive_pool("head", 1)
            self.flatten("head.flatten")
            return
        if isinstance(head, PoolConvLinear):
            self.adaptive_pool("head", 1)
            self.conv("head.conv", head.conv)
            self.dropout("head", head.dropout)
            self.flatten("head.flatten")
            self.linear("head.classifier", head.classes)
            return
        self.adaptive_pool("head", head.pool)
        self.flatten("head.flatten")
        for number, features in enumerate(head.hidden):
            name = f"head.hidden.{number}"
            self.linear(f"{name}.linear", features)
            self.activation(name, head.activation)
            self.dropout(name, head.dropout)
        if not head.hidden:
            self.dropout("head", head.dropout)
        self.linear("head.classifier", head.classes)

    def flatten(self, name: str) -> None:
        self.append(FlattenLayer(name, (self.last,), (prod(self.shape),)))

    def linear(self, name: str, features: int) -> None:
        (in_features,) = self.shape
        self.append(LinearLayer(name, (self.last,), (features,), in_features=in_features))

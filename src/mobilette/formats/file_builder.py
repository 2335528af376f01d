"""`Builder`: collects the layers of a file and infers their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Literal

import numpy as np

from mobilette.arch import primitives
from mobilette.arch.primitives import INPUT, AnyLayer, Shape
from mobilette.arch.rows import Activation
from mobilette.arch.rows import Padding as ConvPadding
from mobilette.errors import InputError
from mobilette.formats.file_layers import NO_PADS, FileLayer, Join, Pads, Weights


class Builder:
    """Collects a file's layers and infers their shapes.

    Methods that append a layer return its name; they raise `InputError` if the layer does not fit
    its inputs.

    Attributes:
        shape: of the network's input.
        layers: by name.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.layers: dict[str, FileLayer] = {}

    def shape_of(self, name: str) -> Shape:
        """Return the shape of a layer's output, or of the input."""
        return self.shape if name == INPUT else self.layers[name].layer.shape

    def add(
        self, layer: AnyLayer, tensors: Mapping[str, Weights] | None = None, epsilon: float = 0.0
    ) -> str:
        """Append a layer under a new name."""
        if layer.name in self.layers or layer.name == INPUT:
            raise InputError(f"two layers are called {layer.name!r}")
        self.layers[layer.name] = FileLayer(layer=layer, tensors=tensors or {}, epsilon=epsilon)
        return layer.name

    def conv(
        self,
        name: str,
        source: str,
        weight: Weights,
        bias: Weights | None,
        *,
        stride: int = 1,
        groups: int = 1,
        same: bool = False,
        before: Pads = NO_PADS,
    ) -> str:
        """Append a convolution.

        Args:
            name: its name.
            source: the layer it reads.
            weight: (out, in / groups, height, width).
            bias: (out,) or ``None``.
            stride: in both directions.
            groups: of channels.
            same: whether the padding is TensorFlow's ``SAME``.
            before: zeros added by a preceding padding layer.
        """
        channels, *sides = self.shape_of(source)
        out, each, kernel, width = weight.shape
        if kernel != width or each * groups != channels or out % groups:
            raise InputError(
                f"layer {name!r}: weights of shape {weight.shape} in {groups} groups for "
                f"{channels} channels; square kernels that fit are expected"
            )
        padding = _conv_padding(before, kernel, stride, sides, same=same)
        layer = primitives.ConvLayer(
            name,
            (source,),
            (out,),
            in_channels=channels,
            kernel=kernel,
            stride=stride,
            groups=groups,
            padding=padding or "tf_same",
            bias=bias is not None,
        )
        tensors = {"weight": np.ascontiguousarray(weight)}
        self.add(_sized(layer, sides), tensors if bias is None else tensors | {"bias": bias})
        if padding is None:
            fault = (
                f"layer {name!r} has {before} zeros around; only padding that is equal on all "
                "sides or TensorFlow's SAME is supported"
            )
            self.layers[name] = replace(self.layers[name], fault=fault)
        return name

    def linear(self, name: str, source: str, weight: Weights, bias: Weights | None) -> str:
        """Append a linear layer; one applied to each pixel of a map becomes a convolution.

        ``weight`` is (out, in) with inputs in the order (height, width, channels), ``bias`` (out,).
        """
        channels, height, width = self.shape_of(source)
        out, features = weight.shape
        if features == channels and height * width > 1:
            return self.conv(name, source, weight[:, :, None, None], bias)
        if features != channels * height * width:
            raise InputError(
                f"layer {name!r}: weights of shape {weight.shape} for {channels} channels of "
                f"{height}x{width} pixels"
            )
        ordered = weight.reshape(out, height, width, channels).transpose(0, 3, 1, 2)
        tensors = {"weight": np.ascontiguousarray(ordered.reshape(out, features))}
        layer = primitives.LinearLayer(name, (source,), (out, 1, 1), in_features=features)
        return self.add(layer, tensors if bias is None else tensors | {"bias": bias})

    def norm(self, name: str, source: str, arrays: Mapping[str, Weights], epsilon: float) -> str:
        """Append a batch norm; ``arrays`` are named as in `NORM`, each (channels,)."""
        shape = self.shape_of(source)
        channels = len(arrays["running_mean"])
        if channels != shape[0]:
            raise InputError(
                f"layer {name!r} is a batch norm of {channels} channels behind a layer of "
                f"{shape[0]}"
            )
        return self.add(primitives.NormLayer(name, (source,), shape), arrays, epsilon)

    def activation(self, name: str, source: str, function: Activation) -> str:
        """Append an activation."""
        layer = primitives.ActivationLayer(
            name, (source,), self.shape_of(source), function=function
        )
        return self.add(layer)

    def average(self, name: str, source: str) -> str:
        """Append a global average pool."""
        return self.add(
            primitives.AdaptivePoolLayer(name, (source,), (self.shape_of(source)[0], 1, 1))
        )

    def pool(
        self,
        name: str,
        source: str,
        function: Literal["max", "average"],
        *,
        kernel: int,
        stride: int,
        same: bool = False,
        padding: int = 0,
        ceil_mode: bool = False,
        before: Pads = NO_PADS,
    ) -> str:
        """Append a pool; a pool over a single pixel is left out.

        ``same`` is TensorFlow's padding, ``padding`` the pool's own on every side otherwise, and
        ``before`` the zeros of a preceding layer, which a maximum would not ignore.
        """
        channels, *sides = self.shape_of(source)
        own: Pads = _same(kernel, stride, sides) if same else (padding,) * 4
        if function == "average":
            if same and any(own):
                raise InputError(
                    f"layer {name!r}: average pooling over the edge of the map is not supported"
                )
            if sides == [kernel, kernel] != [1, 1] and before == NO_PADS and not any(own):
                return self.average(name, source)
        if kernel == stride == 1 and before == NO_PADS and not any(own):
            return source
        if before != NO_PADS and function == "max":
            self._check_not_negative(name, source)
        pads = _sum(before, own)
        # Padding behind the map only is what ceil mode's overhanging last window ignores
        hanging = function == "max" and before == NO_PADS and own[::2] == (0, 0) != own[1::2]
        if len(set(pads)) > 1 and not hanging:
            raise InputError(
                f"layer {name!r} has {pads} zeros around; only equal padding is supported"
            )
        layer = primitives.PoolLayer(
            name,
            (source,),
            (channels,),
            function=function,
            kernel=kernel,
            stride=stride,
            padding=pads[0],
            ceil_mode=ceil_mode or hanging,
        )
        return self.add(_sized(layer, sides))

    def _check_not_negative(self, name: str, source: str) -> None:
        """Raise `InputError` if padding zeros may be the largest values in a max pool."""
        before = self.layers[source].layer if source in self.layers else None
        if not isinstance(before, primitives.ActivationLayer) or before.function not in (
            "relu",
            "relu6",
        ):
            raise InputError(
                f"layer {name!r} is a max pool in which padding zeros may be the largest"
            )

    def join(self, name: str, sources: tuple[str, ...], how: Join) -> str:
        """Append a sum, a concatenation of channels, or a map multiplied by per-channel factors."""
        shapes = [self.shape_of(source) for source in sources]
        first = shapes[0]
        if how == "concat" and len({shape[1:] for shape in shapes}) == 1:
            channels = sum(shape[0] for shape in shapes)
            return self.add(primitives.ConcatLayer(name, sources, (channels, *first[1:])))
        if how == "add" and len(set(shapes)) == 1:
            return self.add(primitives.AddLayer(name, sources, first))
        if how == "scale" and len(sources) == 2:
            if prod(first[1:]) < prod(shapes[1][1:]):
                sources, shapes = sources[::-1], shapes[::-1]
            if shapes[1] == (shapes[0][0], 1, 1):
                return self.add(primitives.ScaleLayer(name, sources, shapes[0]))
        listed = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise InputError(f"layer {name!r} joins {listed}, which is not supported")

    def set_tensors(self, name: str, tensors: Mapping[str, Weights]) -> None:
        """Replace the tensors of a convolution or linear layer."""
        self.layers[name] = replace(self.layers[name], tensors=tensors)


def _sized(
    layer: primitives.ConvLayer | primitives.PoolLayer, sides: Sequence[int]
) -> primitives.ConvLayer | primitives.PoolLayer:
    """Return ``layer`` with its output shape for a map of ``sides``, (height, width)."""
    made = (primitives.output_side(layer, side) for side in sides)
    return replace(layer, shape=(layer.shape[0], *made))


def _same(kernel: int, stride: int, sides: Sequence[int]) -> Pads:
    height, width = (primitives.same_padding(x, kernel=kernel, stride=stride) for x in sides)
    return (*height, *width)


def _sum(before: Pads, own: Pads) -> Pads:
    top, bottom, left, right = map(sum, zip(before, own, strict=True))
    return top, bottom, left, right


def _conv_padding(
    before: Pads, kernel: int, stride: int, sides: Sequence[int], *, same: bool
) -> ConvPadding | None:
    """Return `Conv`'s name for the padding of a map of ``sides``; ``None`` if it has none."""
    tf_same = _same(kernel, stride, sides)
    pads = _sum(before, tf_same if same else NO_PADS)
    if same and before == NO_PADS:
        return "tf_same"
    if not any(pads):
        return "valid"
    if pads == (primitives.symmetric_padding(kernel),) * 4:
        return "symmetric"
    return "tf_same" if pads == tf_same else None

"""What each tensor of an ONNX graph holds: a constant, or the numbers of a layer in some order.

A file may transpose maps, split their channels and pad them anywhere. Each tensor records which
number of its layer is at which place; where a layer reads it, that order is recognised again: the
map itself, a part of its channels, a channel shuffle, or zeros around it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.arch import primitives
from mobilette.arch.primitives import INPUT, Shape
from mobilette.errors import InputError
from mobilette.formats.file_layers import NO_PADS, Pads, Weights
from mobilette.formats.onnx.constants import Constants
from mobilette.formats.values import Affine, Numbers, Operation, Pixels, Step, Value, Values

Order = NDArray[np.int32]
ZERO = -1  # in an order: a zero around the map
MOST = 2**26  # numbers of a map


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A tensor that is computed from the image.

    Attributes:
        value: the layer, or an intermediate result of it.
        shape: without the batch.
        order: the place of each number in the layer's (channels, height, width), or `ZERO`;
            ``None`` if they are in the layer's order.
        steps: operations with constants, one per channel, that are to be folded into the layer.
        names: of the initialisers in ``steps``.
    """

    value: Value
    shape: Shape
    order: Order | None = None
    steps: tuple[Step, ...] = ()
    names: tuple[str, ...] = ()

    def ordered(self) -> Order:
        """Return ``order`` as an array of ``shape``."""
        if self.order is not None:
            return self.order
        return places(math.prod(self.shape)).reshape(self.shape)


@lru_cache(maxsize=16)
def places(count: int) -> Order:
    """Return 0 to ``count`` - 1."""
    if count > MOST:
        raise InputError(f"a map of {count:,} numbers is too large")
    return np.arange(count, dtype=np.int32)


class State:
    """The layers, tensors and constants so far; methods raise `InputError`.

    Attributes:
        values: the layers so far.
        batch: the number of images that the file is written for, 1 if it is left open.
        readers: how often nodes read each tensor.
    """

    def __init__(self, constants: Constants, *, batch: int, readers: Counter[str]) -> None:
        self.values = Values()
        self.constants = constants
        self.batch = batch
        self.readers = readers
        self._views: dict[str, View] = {}
        self._folds: dict[tuple[str, tuple[Step, ...]], str] = {}

    def start(self, name: str, shape: Shape, *, is_stored_as_bytes: bool) -> None:
        """Take ``name`` of ``shape`` without the batch, an image, as the network's input."""
        first, second, last = shape
        planes, order = (first, second, last), None
        if first not in (1, 3):
            planes = (last, first, second)
            order = channels_last(planes)
        channels = planes[0]
        if channels not in (1, 3):
            raise InputError(
                f"its input is {shape} without the batch, not an image of 1 or 3 channels"
            )
        pixels = Pixels(mean=(0.0,) * channels, std=(1.0,) * channels, is_stated=is_stored_as_bytes)
        self.values.shape = planes
        self.write(name, View(value=Value(layer=INPUT, pixels=pixels), shape=shape, order=order))

    def write(self, name: str, view: View) -> None:
        """Set what tensor ``name`` holds; an order that is a layer's own is recognised."""
        if name in self._views or name in self.constants:
            raise InputError(f"it writes {name!r:.80}, which already has a value")
        self._views[name] = self._simple(view)

    def view(self, name: str) -> View:
        """Return what tensor ``name`` holds."""
        if name not in self._views:
            which = f"{name!r:.80}" if name else "an input that is left out"
            raise InputError(f"it reads {which}, which no earlier node writes")
        return self._views[name]

    def read(self, name: str) -> View:
        """Return what tensor ``name`` holds, its ``steps`` folded into the layer."""
        view = self._views[name] = self._folded(self.view(name))
        return view

    def _folded(self, view: View) -> View:
        if not view.steps:
            return view
        source = self.values.plain(view.value)
        key = source, view.steps
        if key not in self._folds:
            self._folds[key] = self._fold(source, view)
        return replace(view, value=Value(layer=self._folds[key]), steps=(), names=())

    def _fold(self, source: str, view: View) -> str:
        """Append the layer ``source`` with the ``steps`` of ``view``."""
        before = self.values.layers.get(source)
        if before is None or not isinstance(
            before.layer, primitives.ConvLayer | primitives.LinearLayer
        ):
            raise InputError("it reads a batch norm that follows no convolution")
        folded = self.values.unique(f"{source} (folded)")
        layer: Any = replace(before.layer, name=folded)
        if isinstance(layer, primitives.ConvLayer):
            layer = replace(layer, bias=True)
        self.values.layers[folded] = replace(before, layer=layer)
        self.values.stored[folded] = (*self.values.stored.get(source, ()), *view.names)
        Affine.of_steps(view.steps).put_after(self.values, folded)
        return folded

    def numbers(self, view: View, constant: str) -> Numbers:
        """Return a constant as one number, or one per channel of the layer behind ``view``."""
        weights = self.constants.weights(constant)
        if weights.size == 1:
            return (float(weights.ravel()[0]),)
        channels, *sides = self.values.shape_of(view.value.layer)
        count = channels * math.prod(sides)
        try:
            spread = np.broadcast_to(weights, (1, *view.shape))
        except ValueError as error:
            raise InputError(f"a constant of {weights.shape} for a map of {view.shape}") from error
        if math.prod(view.shape) != count or ZERO in view.ordered():
            raise InputError("a constant per channel is supported only for whole maps")
        flat = np.empty(count, np.float32)
        flat[view.ordered().ravel()] = spread.ravel()
        rows = flat.reshape(channels, -1)
        if (rows != rows[:, :1]).any():
            raise InputError(f"a constant of {weights.shape}; one number per channel is expected")
        return tuple(rows[:, 0].tolist())

    def with_constant(self, name: str, operation: Operation, constant: str) -> View:
        """Apply an operation with a constant: to the image, in hard-swish, or as a batch norm."""
        view = self.view(name)
        numbers = self.numbers(view, constant)
        if len(numbers) == 1 or view.value.pixels is not None:
            view = self.read(name)
            try:
                changed = self.values.with_constant(operation, view.value, numbers)
                return replace(view, value=changed)
            except InputError:
                if not isinstance(self.values.layer(view.value.layer), primitives.LinearLayer):
                    raise
        self.values.plain(view.value)
        names = (*view.names, *self.constants.origins[constant])
        return replace(view, steps=(*view.steps, (operation, numbers)), names=names)

    def map(self, view: View) -> str:
        """Return the layer whose map (channels, height, width) ``view`` is."""
        layer, pads = self.window(view)
        if pads != NO_PADS:
            raise InputError("it reads a map with zeros around it")
        return layer

    def window(self, view: View) -> tuple[str, Pads]:
        """Return the layer whose map ``view`` is, and the zeros around it."""
        layer = self.values.plain(view.value)
        channels, height, width = self.values.shape_of(layer)
        if view.order is None and view.shape == (channels, height, width):
            return layer, NO_PADS
        order = view.ordered()
        if order.ndim == 3:
            inside = np.argwhere(order != ZERO)
            low, high = inside.min(0), inside.max(0) + 1
            whole = places(channels * height * width).reshape(channels, height, width)
            part = order[tuple(map(slice, low, high))]
            if len(order) == channels and np.array_equal(part, whole):
                (top, left), (bottom, right) = low[1:], np.array(order.shape[1:]) - high[1:]
                return layer, (int(top), int(bottom), int(left), int(right))
            subsampled = self._subsampled(layer, order, whole)
            if subsampled:
                return subsampled, NO_PADS
        raise InputError(
            f"it reads {'x'.join(map(str, view.shape))} numbers of {layer!r:.80}, which are not in "
            "the order of a map (channels, height, width)"
        )

    def _subsampled(self, layer: str, order: Order, whole: Order) -> str:
        """Append the layer that makes ``order`` of the map ``whole``, if there is one."""
        stride, added = round(whole.shape[1] / order.shape[1]), len(order) - len(whole)
        if stride < 1 or added < 0 or added % 2:
            return ""
        padded = np.pad(
            whole[:, ::stride, ::stride], ((added // 2,) * 2, (0, 0), (0, 0)), constant_values=ZERO
        )
        if not np.array_equal(padded, order):
            return ""
        name = self.values.unique(f"{layer}/subsampled")
        return self.values.add(
            primitives.SubsampleLayer(
                name, (layer,), order.shape, stride=stride, new_channels=added
            )
        )

    def _simple(self, view: View) -> View:
        """Return ``view`` of a layer in that layer's order, if there is one."""
        if view.order is None:
            return view
        shape = self.values.shape_of(view.value.layer)
        whole = places(math.prod(shape))
        if np.array_equal(view.order.ravel(), whole):
            return replace(view, order=None)
        if view.order.ndim != 3 or view.value.form != "plain" or view.shape[1:] != shape[1:]:
            return view
        pixels = math.prod(shape[1:])
        channels = view.order[:, 0, 0] // pixels
        if channels.min() < 0 or not np.array_equal(view.order, whole.reshape(shape)[channels]):
            return view
        return self._chosen(self._folded(view), channels.tolist(), shape)

    def _chosen(self, view: View, channels: Sequence[int], shape: Shape) -> View:
        """Return the slice or shuffle that makes the given channels of a layer's map."""
        source, count, begin = view.value.layer, shape[0], channels[0]
        layer: primitives.AnyLayer
        if list(channels) == list(range(begin, begin + len(channels))):
            end = begin + len(channels)
            name = self.values.unique(f"{source}[{begin}:{end}]")
            layer = primitives.SliceLayer(name, (source,), view.shape, begin=begin, end=end)
        else:
            each = channels[1] if len(channels) > 1 else 0
            groups = count // each if each and len(channels) == count and count % each == 0 else 0
            shuffled = np.arange(count).reshape(groups, -1).T.ravel().tolist() if groups else []
            if list(channels) != shuffled:
                return view
            name = self.values.unique(f"{source}/shuffled")
            layer = primitives.ShuffleLayer(name, (source,), view.shape, groups=groups)
        self.values.plain(view.value)
        return replace(view, value=Value(layer=self.values.add(layer)), order=None)


def channels_last(shape: Shape) -> Order:
    """Return the order (height, width, channels) of a map of ``shape``."""
    return places(math.prod(shape)).reshape(shape).transpose(1, 2, 0)


def in_layers_order(weight: Weights, view: View) -> Weights:
    """Return (out, features) with its features in the order of the layer behind ``view``."""
    if view.order is None:
        return weight
    ordered = np.empty_like(weight)
    ordered[:, view.order.ravel()] = weight
    return ordered

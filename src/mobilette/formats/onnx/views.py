"""Handlers of the operators that move, split and pad numbers without changing them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from mobilette.arch.primitives import Shape
from mobilette.errors import InputError
from mobilette.formats.onnx.nodes import Node
from mobilette.formats.onnx.state import MOST, ZERO, State, View


def transpose(state: State, node: Node) -> View:
    """Read Transpose of everything but the batch."""
    (source,) = node.inputs_of(1, 1)
    view = state.view(source)
    rank = len(view.shape) + 1
    axes = node.integers("perm", list(range(rank))[::-1])
    if sorted(axes) != list(range(rank)) or axes[0] != 0:
        raise InputError(f"it orders the axes as {axes}; the batch must stay the first of {rank}")
    order = np.transpose(view.ordered(), [axis - 1 for axis in axes[1:]])
    return replace(view, order=order, shape=order.shape)


def reshape(state: State, node: Node) -> View:
    """Read Reshape, Flatten, Squeeze or Unsqueeze of everything but the batch."""
    source, argument = node.inputs_of(1, 2)
    view = state.view(source)
    if node.op == "Flatten":
        rank = len(view.shape) + 1
        if node.integer("axis", 1) % rank != 1:
            raise InputError("it flattens the batch, or not all of the map")
        shape: Shape = (math.prod(view.shape),)
    elif node.op == "Reshape":
        target = state.constants.integers(argument)
        shape = _reshaped(view.shape, target, state.batch, copies=not node.integer("allowzero", 0))
    else:
        axes = state.constants.integers(argument) if argument else node.integers("axes", [])
        shape = _squeezed(view.shape, axes, inserts=node.op == "Unsqueeze")
    return replace(
        view, shape=shape, order=None if view.order is None else view.order.reshape(shape)
    )


def _reshaped(shape: Shape, target: list[int], batch: int, *, copies: bool) -> Shape:
    """Return the shape, without the batch, that ``target`` means; ``copies``: 0 keeps a size."""
    first, *rest = target or [0]
    sizes = [
        shape[axis] if size == 0 and copies and axis < len(shape) else size
        for axis, size in enumerate(rest)
    ]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and first != -1 and known > 0:
        sizes[sizes.index(-1)] = math.prod(shape) // known
    keeps_batch = first in (-1, batch) or (first == 0 and copies)
    if not keeps_batch or min(sizes, default=1) < 1 or math.prod(sizes) != math.prod(shape):
        raise InputError(
            f"it makes {target} of {shape} and a batch of {batch}; the batch must stay"
        )
    return tuple(sizes)


def _squeezed(shape: Shape, axes: list[int], *, inserts: bool) -> Shape:
    sizes = [1, *shape]
    rank = len(sizes) + (len(axes) if inserts else 0)
    axes = sorted(axis % rank for axis in axes)
    if not axes or 0 in axes or len(axes) > 8:
        raise InputError(f"it squeezes or inserts the axes {axes}; the batch must stay")
    for axis in axes if inserts else axes[::-1]:
        if inserts:
            sizes.insert(axis, 1)
        elif sizes.pop(axis) != 1:
            raise InputError(f"it squeezes axis {axis} of {shape}, which is not 1")
    return tuple(sizes[1:])


def split(state: State, node: Node) -> list[View]:
    """Read Split of any axis but the batch."""
    source, sizes_name = node.inputs_of(1, 2)
    view = state.read(source)
    axis = _axis(node.integer("axis", 0), view.shape)
    size, count = view.shape[axis], len(node.outputs)
    if sizes_name:
        sizes = state.constants.integers(sizes_name)
    else:
        each = -(-size // count)
        default = [min(each, size - each * place) for place in range(count)]
        sizes = node.integers("split", default)
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != size:
        raise InputError(f"it splits {size} into {sizes} for {count} outputs")
    order = view.ordered()
    parts = np.split(order, np.cumsum(sizes)[:-1], axis)
    return [replace(view, order=part, shape=part.shape) for part in parts]


def slice_(state: State, node: Node) -> View:
    """Read Slice of any axis but the batch."""
    source, *names = node.inputs_of(1, 5)
    view = state.read(source)
    if names[0]:
        given = [state.constants.integers(name) if name else [] for name in names]
    else:
        given = [node.integers(name, []) for name in ("starts", "ends", "axes")] + [[]]
    starts, ends, axes, steps = given
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    if len({len(starts), len(ends), len(axes), len(steps)}) != 1 or min(steps, default=1) < 1:
        raise InputError("its starts, ends, axes and steps do not fit")
    chosen = [slice(None)] * len(view.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen[_axis(axis, view.shape)] = slice(start, end, step)
    order = view.ordered()[tuple(chosen)]
    if not order.size:
        raise InputError("nothing is left of the map")
    return replace(view, order=order, shape=order.shape)


def _axis(axis: int, shape: Shape) -> int:
    """Return an axis of a tensor as one of ``shape``, which is without the batch."""
    rank = len(shape) + 1
    if not -rank <= axis < rank or axis % rank == 0:
        raise InputError(f"axis {axis} of {rank}; the batch must stay whole")
    return axis % rank - 1


def pad(state: State, node: Node) -> View:
    """Read Pad with zeros of everything but the batch."""
    source, amounts_name, value_name, axes_name = node.inputs_of(1, 4)
    view = state.read(source)
    rank = len(view.shape) + 1
    value = float(state.constants.get(value_name).sum()) if value_name else node.number("value", 0)
    if node.text("mode", "constant") != "constant" or value:
        raise InputError("it pads with other numbers than 0")
    amounts = state.constants.integers(amounts_name) if amounts_name else node.integers("pads", [])
    axes = state.constants.integers(axes_name) if axes_name else list(range(rank))
    if len(amounts) != 2 * len(axes) or min(amounts, default=0) < 0:
        raise InputError(f"its amounts {amounts} do not fit {len(axes)} axes, or are below 0")
    around = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        around[axis % rank] = (amounts[place], amounts[place + len(axes)])
    sizes = [size + sum(ends) for size, ends in zip(view.shape, around[1:], strict=True)]
    if around[0] != (0, 0) or math.prod(sizes) > MOST:
        raise InputError("it pads the batch, or by too much")
    if not any(map(sum, around)):
        return view
    order = np.pad(view.ordered(), around[1:], constant_values=ZERO)
    return replace(view, order=order, shape=order.shape)

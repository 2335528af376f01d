"""Tracks what each tensor of a TensorFlow Lite file holds, operator by operator.

Activations that TensorFlow Lite expresses as several operators are recognised here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AnyLayer,
    ConvLayer,
    LinearLayer,
)
from mobilette.arch.rows import Activation
from mobilette.errors import InputError
from mobilette.formats.file_layers import NO_PADS, Builder, FileLayer, Pads, Weights
from mobilette.formats.pixels import Pixels
from mobilette.formats.tflite.schema import ModelRecord, OperatorRecord, TensorRecord
from mobilette.formats.tflite.tensors import Constants, pixels_of

Shape = tuple[int, ...]

# What a tensor may hold instead of a layer's output x itself.
_FORMS = {
    "plain": "x",
    "plus_3": "x + 3",
    "clipped": "relu6(x + 3)",
    "product": "x times relu6(x + 3)",
    "sixth": "x / 6",
    "softmax": "softmax(x)",
    "sigmoid": "sigmoid(x)",
    "padded": "x with zeros around it",
}
Form = Literal["plain", "plus_3", "clipped", "product", "sixth", "softmax", "sigmoid", "padded"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """What a tensor holds: the output x of ``layer``, or an intermediate result of it."""

    layer: str
    form: Form = "plain"
    pads: Pads = NO_PADS

    def plain(self) -> str:
        """Return the layer; raise `InputError` if the tensor does not hold a layer's output."""
        if self.form != "plain":
            raise InputError(
                f"it reads {_FORMS[self.form]}; that is read at the network's end (softmax or "
                "sigmoid) or as a part of hard-sigmoid or hard-swish"
            )
        return self.layer

    def window(self) -> str:
        """Return the layer as input of one with a window, which may read padding; see `plain`."""
        return self.layer if self.form == "padded" else self.plain()


class Values(Builder):
    """The layers so far, in order of execution; unsupported operations raise `InputError`.

    Attributes:
        weights: layer name to the names of the file's tensors that hold its weights.
    """

    def __init__(self) -> None:
        super().__init__((0, 0, 0))
        self.weights: dict[str, tuple[str, ...]] = {}

    def unique(self, name: str) -> str:
        """Return ``name``, with a number if it is taken."""
        chosen, number = name, 1
        while chosen in self.layers or chosen == INPUT:
            number += 1
            chosen = f"{name} ({number})"
        return chosen

    def activated(self, value: Value, function: Activation) -> Value:
        """Apply ``function`` to a plain ``value``; a repeated ReLU or ReLU6 is dropped."""
        if function == "none":
            return value
        source = value.plain()
        last = self.layer(source)
        again = isinstance(last, ActivationLayer) and last.function == function
        if again and function in ("relu", "relu6"):
            return value
        name = self.unique(f"{source}/{function}")
        return Value(layer=self.activation(name, source, function))

    def layer(self, name: str) -> AnyLayer | None:
        """Return the layer ``name``; ``None`` for the input."""
        return self.layers[name].layer if name in self.layers else None

    def plus(self, value: Value, number: float) -> Value:
        """Add ``number``, which must be the 3 of hard-sigmoid."""
        if not np.isclose(number, 3, rtol=1e-3):
            raise InputError(f"adding {number:.6g} is read after the input only, or 3 before ReLU6")
        return Value(layer=value.plain(), form="plus_3")

    def clipped(self, value: Value) -> Value:
        """Apply ReLU6 to x or to x + 3."""
        if value.form == "plus_3":
            return replace(value, form="clipped")
        return self.activated(value, "relu6")

    def sixth(self, value: Value, number: float) -> Value:
        """Multiply by ``number``, which must be the 1/6 of hard-sigmoid or hard-swish."""
        if not np.isclose(number, 1 / 6, rtol=1e-3):
            raise InputError(f"multiplying by {number:.6g} is read after the input only, or by 1/6")
        if value.form == "clipped":
            return self.activated(Value(layer=value.layer), "hard_sigmoid")
        if value.form == "product":
            return self.activated(Value(layer=value.layer), "hard_swish")
        shifted = self._shifted(value)
        if shifted is not None:
            return self.activated(shifted, "hard_sigmoid")
        return Value(layer=value.plain(), form="sixth")

    def product(self, name: str, first: Value, second: Value, *, factors: bool) -> Value:
        """Multiply two values: the end of hard-swish or, with ``factors``, per-channel scaling."""
        for x, factor in ((first, second), (second, first)):
            if x.layer == factor.layer and factor.form == "clipped":
                if x.form == "plain":
                    return Value(layer=x.layer, form="product")
                if x.form == "sixth":
                    return self.activated(Value(layer=x.layer), "hard_swish")
            gate = self.layer(factor.layer)
            gated = isinstance(gate, ActivationLayer) and gate.function == "hard_sigmoid"
            if gated and gate is not None and gate.inputs == (x.layer,) and x.form == "plain":
                return self.activated(x, "hard_swish")
        inputs = (first.plain(), second.plain())
        if not factors:
            raise InputError("a product of two maps is read as a part of hard-swish only")
        return Value(layer=self.join(self.unique(name), inputs, "scale"))

    def leading_to(self, output: str) -> tuple[FileLayer, ...]:
        """Return the layers that ``output`` depends on."""
        needed = {output}
        for file in reversed(self.layers.values()):
            if file.name in needed:
                needed.update(file.layer.inputs)
        return tuple(file for file in self.layers.values() if file.name in needed)

    def _shifted(self, value: Value) -> Value | None:
        """Return y if ``value`` is relu6(y + 3) with the 3 folded into a convolution's bias."""
        last = self.layer(value.layer)
        if value.form != "plain" or not isinstance(last, ActivationLayer):
            return None
        source = self.layer(last.inputs[0])
        if last.function != "relu6" or not isinstance(source, ConvLayer | LinearLayer):
            return None
        tensors = self.layers[source.name].tensors
        bias = tensors.get("bias", np.zeros(source.shape[0], np.float32)) - np.float32(3)
        name = self.unique(f"{source.name}/minus 3")
        self.weights[name] = self.weights[source.name]
        moved: AnyLayer = replace(source, name=name)
        if isinstance(moved, ConvLayer):
            moved = replace(moved, bias=True)
        self.add(moved, {**tensors, "bias": bias})
        self.layers[name] = replace(self.layers[name], fault=self.layers[source.name].fault)
        return Value(layer=name)


class State:
    """The layers and values so far; tensors are given by index. Methods raise `InputError`.

    Attributes:
        values: the layers so far.
        constants: the file's constants.
        scaling: of the network's input, once an operator has read it.
    """

    def __init__(self, model: ModelRecord, *, most: int) -> None:
        """Start empty; ``most`` limits the total count of numbers in constants."""
        self.values = Values()
        self.constants = Constants(model, most=most)
        self.scaling: Pixels | None = None
        self._tensors = model.tensors
        self._values: dict[int, Value] = {}
        self._pixels: dict[int, Pixels] = {}
        self._copies: dict[int, int] = {}

    def start(self, index: int) -> None:
        """Take tensor ``index``, a square image of 1 or 3 channels, as the network's input."""
        shape = self.shape(index)
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3):
            raise InputError(f"its input is {shape}, not a square image (1, n, n, 1 or 3)")
        if self.is_constant(index):
            raise InputError("its input is a constant")
        self._values[index] = Value(layer=INPUT)
        self.values.shape = (shape[3], shape[1], shape[2])
        self._pixels[index] = pixels_of(self._tensors[index], shape[3])

    def tensor(self, index: int) -> TensorRecord:
        """Return a tensor's record or, for a copy of a constant, the constant's."""
        return self._tensors[self._copies.get(index, index)]

    def is_constant(self, index: int) -> bool:
        """Return whether the file stores the tensor, possibly in another type."""
        return index >= 0 and self.tensor(index).data.size > 0

    def constant(self, index: int) -> Weights:
        """Return a constant's dequantised values."""
        if not self.is_constant(index):
            raise InputError("its weights are not constants")
        return self.constants.floats(self._copies.get(index, index))

    def shape(self, index: int) -> Shape:
        """Return an activation tensor's shape: (1, height, width, channels) or (1, n)."""
        tensor = self._tensors[index]
        if tensor.kind not in ("float32", "int8", "uint8"):
            raise InputError(
                f"tensor {tensor.name!r:.60} is {tensor.kind}; activations are read as float32,"
                " int8 or uint8"
            )
        shape = tensor.shape
        fixed = len(shape) in (2, 4) and not any(tensor.dynamic[1:])
        if not fixed or shape[0] != 1 or min(shape) < 1:
            raise InputError(
                f"tensor {tensor.name!r:.60} is of shape {shape}; only (1, height, width,"
                " channels) and (1, n), all fixed but the batch, are supported"
            )
        return shape

    def read(self, index: int) -> Value:
        """Return what tensor ``index`` holds; the input may be read in one scaling only."""
        value = self.value(index)
        pixels = self._pixels.get(index)
        if pixels is not None and self.scaling not in (None, pixels):
            raise InputError("the network reads its input in two different scalings")
        self.scaling = pixels or self.scaling
        return value

    def value(self, index: int) -> Value:
        """Like `read`, for operators that only pass the value on."""
        if index not in self._values:
            which = "an input" if index < 0 else f"tensor {self._tensors[index].name!r:.60}"
            raise InputError(f"it reads {which}, which nothing before it writes")
        return self._values[index]

    def pixels(self, index: int) -> Pixels | None:
        """Return the pixel scaling of a tensor that holds the input, scaled or not."""
        return self._pixels.get(index)

    def write(self, index: int, value: Value) -> None:
        """Set the value of tensor ``index``."""
        self._values[index] = value

    def scale(self, index: int, pixels: Pixels) -> None:
        """Set the pixel scaling of tensor ``index``."""
        self._pixels[index] = pixels

    def copy(self, index: int, constant: int) -> None:
        """Record that tensor ``index`` is ``constant`` in another type."""
        self._copies[index] = self._copies.get(constant, constant)
        if self._tensors[index].shape != self.tensor(index).shape:
            raise InputError("its output is of another shape than its input")

    def check_free(self, index: int) -> None:
        """Raise `InputError` if tensor ``index`` holds something already."""
        if index in self._values or index in self._copies or self.is_constant(index):
            name = self._tensors[index].name
            raise InputError(f"it writes tensor {name!r:.60}, which holds something already")

    def weights(
        self, operators: tuple[OperatorRecord, ...], names: set[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of all weight tensors, and of those that no layer in ``names`` uses.

        A constant that no operator reads counts as weights; shapes and factors do not.
        """
        read = {index for operator in operators for index in operator.inputs}
        idle = [
            tensor.name
            for index, tensor in enumerate(self._tensors)
            if tensor.data.size and index not in read
        ]
        used = self.values.weights
        every = dict.fromkeys(name for tensors in used.values() for name in tensors)
        kept = {name for layer in used if layer in names for name in used[layer]}
        unused = [name for name in every if name not in kept]
        return (*every, *idle), (*unused, *idle)


def is_one_pixel(shape: Shape) -> bool:
    """Return whether there are only channels: (1, n) or (1, 1, 1, n)."""
    return math.prod(shape) == shape[-1]

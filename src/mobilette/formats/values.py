"""What a value in a file's graph is, and how layers are built from values.

A value is the image, scaled or not, a layer's output, or an intermediate result of an operation
that the file expresses in several steps: hard-sigmoid is relu6(x + 3) / 6, hard-swish x times that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.primitives import INPUT, ActivationLayer, AnyLayer, ConvLayer, LinearLayer
from mobilette.arch.rows import Activation
from mobilette.data.preprocess import Colour, Preprocess
from mobilette.errors import InputError
from mobilette.formats.file_builder import Builder
from mobilette.formats.file_layers import NO_PADS, Ending, FileLayer, Pads, Weights

Numbers = tuple[float, ...]
Operation = Literal["ADD", "SUB", "MUL", "DIV"]
Step = tuple[Operation, Numbers]
Array = NDArray[np.float64]
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
class Pixels:
    """An image as (pixel - mean) / std per channel, for pixels of 0 to 255.

    ``is_stated``: whether the file states the scaling; an unscaled float input can be anything.
    """

    mean: Numbers
    std: Numbers
    is_stated: bool

    def scaled(self, operation: Operation, numbers: Numbers) -> Pixels:
        """Return the result of an operation with a constant: one number, or one per channel."""
        channels = len(self.mean)
        if len(numbers) not in (1, channels):
            raise InputError(f"a constant of {len(numbers)} numbers for {channels} channels")
        constant = np.resize(np.asarray(numbers, np.float64), channels)
        if operation in ("MUL", "DIV") and constant.min() <= 0:
            raise InputError("a factor that is not above 0")
        mean, std = np.array(self.mean), np.array(self.std)
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            if operation in ("ADD", "SUB"):
                mean = mean - constant * std if operation == "ADD" else mean + constant * std
            else:
                std = std / constant if operation == "MUL" else std * constant
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise InputError("the scaling of the input is not finite")
        return Pixels(mean=tuple(mean.tolist()), std=tuple(std.tolist()), is_stated=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """x * scale + shift, float64; one of each per channel, or one for all.

    `put_after` and `put_before` raise `InputError` where folding into the layer is impossible.
    """

    scale: Array
    shift: Array

    @staticmethod
    def of_norm(arrays: Mapping[str, Weights], epsilon: float) -> Affine:
        """Return a batch norm's map at inference; ``arrays`` are named as in `NORM`."""
        scale = arrays["weight"] / np.sqrt(arrays["running_var"].astype(np.float64) + epsilon)
        return Affine(scale=scale, shift=arrays["bias"] - arrays["running_mean"] * scale)

    @staticmethod
    def of_steps(steps: Sequence[Step]) -> Affine:
        """Return the composition of additions, subtractions, multiplications and divisions."""
        scale, shift = np.ones(1), np.zeros(1)
        for name, values in steps:
            numbers = np.asarray(values, np.float64)
            if name == "DIV" and not numbers.all():
                raise InputError("division by 0")
            factor = {"MUL": numbers, "DIV": 1 / numbers if numbers.all() else 1}.get(name, 1)
            change = {"ADD": numbers, "SUB": -numbers}.get(name, 0)
            scale, shift = scale * factor, shift * factor + change
        return Affine(scale=scale, shift=shift)

    def put_after(self, builder: Builder, name: str) -> None:
        """Fold this into the layer ``name`` before it."""
        tensors = builder.layers[name].tensors
        weight = tensors["weight"]
        out = len(weight)
        scale, shift = self._spread(out, name)
        bias = tensors.get("bias", np.zeros(out))
        spread = scale.reshape(-1, *[1] * (weight.ndim - 1))
        put = {"weight": _float32(weight * spread), "bias": _float32(bias * scale + shift)}
        builder.set_tensors(name, put)

    def put_before(self, builder: Builder, name: str) -> None:
        """Fold this into the layer ``name`` behind it, which reads one pixel or a flattened map."""
        layer, tensors = builder.layers[name].layer, builder.layers[name].tensors
        weight = tensors["weight"]
        if isinstance(layer, ConvLayer) and (layer.kernel, layer.groups) != (1, 1):
            raise InputError(f"layer {name!r} follows a batch norm that no convolution has")
        scale, shift = self._spread(weight.shape[1], name)
        spread = scale.reshape(1, -1, *[1] * (weight.ndim - 2))
        bias = tensors.get("bias", np.zeros(len(weight))) + weight.reshape(len(weight), -1) @ shift
        builder.set_tensors(name, {"weight": _float32(weight * spread), "bias": _float32(bias)})

    def _spread(self, count: int, name: str) -> tuple[Array, Array]:
        """Return scale and shift, repeated for ``count`` channels or pixels of a flattened map."""
        if count % len(self.scale) or count % len(self.shift):
            raise InputError(f"layer {name!r} has {count} channels, its scaling {len(self.scale)}")
        scale, shift = self.scale, self.shift
        return np.repeat(scale, count // len(scale)), np.repeat(shift, count // len(shift))


def _float32(array: Array) -> Weights:
    with np.errstate(over="ignore", invalid="ignore"):  # checked for finite values later
        return np.ascontiguousarray(array, np.float32)


@dataclass(frozen=True, kw_only=True)
class Value:
    """The output x of ``layer``, or an intermediate result of it.

    Attributes:
        pads: the zeros around x (``padded``).
        pixels: the scaling, if it is the image.
        affine: a batch norm of x, to be folded into the next linear layer.
    """

    layer: str
    form: Form = "plain"
    pads: Pads = NO_PADS
    pixels: Pixels | None = None
    affine: Affine | None = None


class Values(Builder):
    """A `Builder` that takes values; unsupported operations raise `InputError`.

    Attributes:
        scaling: of the image, once a layer has read it.
        stored: layer name to the names of the file's tensors that hold its weights.
    """

    def __init__(self) -> None:
        super().__init__((0, 0, 0))
        self.scaling: Pixels | None = None
        self.stored: dict[str, tuple[str, ...]] = {}

    def preprocess(self) -> Preprocess | None:
        """Return the scaling as a `Preprocess` with default geometry, if the file states it."""
        found = self.scaling
        if found is None or not found.is_stated:
            return None
        colour: Colour = "grey" if len(found.mean) == 1 else "rgb"
        return Preprocess(mean=found.mean, std=found.std, colour=colour)

    def plain(self, value: Value) -> str:
        """Return the layer of which ``value`` must be the output; record the image's scaling."""
        if value.form != "plain":
            raise InputError(
                f"it reads {_FORMS[value.form]}; that is supported at the end (softmax or "
                "sigmoid) or as a part of hard-sigmoid or hard-swish"
            )
        if value.affine is not None:
            raise InputError("it reads a batch norm that follows no convolution")
        if value.pixels is not None and self.scaling not in (None, value.pixels):
            raise InputError("the network reads its input in two different scalings")
        self.scaling = value.pixels or self.scaling
        return value.layer

    def window(self, value: Value) -> str:
        """Return the input of a layer with a window, which may read padding; see `plain`."""
        return value.layer if value.form == "padded" else self.plain(value)

    def padded(self, value: Value, pads: Pads) -> Value:
        """Return ``value`` with zeros around it."""
        return Value(layer=self.plain(value), form="padded", pads=pads)

    def ended(self, value: Value, ending: Ending) -> Value:
        """Return the softmax or sigmoid of ``value``."""
        layer = self.plain(value)
        return value if ending == "logits" else Value(layer=layer, form=ending)

    def logits(self, output: Value) -> tuple[str, Ending]:
        """Return the layer that computes the logits, and what is applied to them."""
        if output.form == "softmax" or output.form == "sigmoid":
            return output.layer, output.form
        return self.plain(output), "logits"

    def unique(self, name: str) -> str:
        """Return ``name``, with a number if it is taken."""
        chosen, number = name, 1
        while chosen in self.layers or chosen == INPUT:
            number += 1
            chosen = f"{name} ({number})"
        return chosen

    def layer(self, name: str) -> AnyLayer | None:
        """Return the layer ``name``; ``None`` for the input."""
        return self.layers[name].layer if name in self.layers else None

    def with_constant(self, operation: Operation, value: Value, numbers: Numbers) -> Value:
        """Scale the image, or do a step of hard-sigmoid or hard-swish."""
        if value.pixels is not None:
            return replace(value, pixels=value.pixels.scaled(operation, numbers))
        if len(numbers) != 1 or operation == "SUB":
            raise InputError(
                "a constant per channel, or a subtraction, is supported only after the input"
            )
        (number,) = numbers
        if operation == "ADD":
            if not math.isclose(number, 3, rel_tol=1e-3):
                raise InputError(
                    f"adding {number:.6g} is supported only after the input (3 also before ReLU6)"
                )
            return Value(layer=self.plain(value), form="plus_3")
        if operation == "DIV":
            number = 1 / number if number else 0.0
        if not math.isclose(number, 1 / 6, rel_tol=1e-3):
            raise InputError(
                f"multiplying by {number:.6g} is supported only after the input, or 1/6 after ReLU6"
            )
        if value.form == "clipped":
            return self.activated(Value(layer=value.layer), "hard_sigmoid")
        if value.form == "product":
            return self.activated(Value(layer=value.layer), "hard_swish")
        shifted = self._shifted(value)
        if shifted is not None:
            return self.activated(shifted, "hard_sigmoid")
        return Value(layer=self.plain(value), form="sixth")

    def activated(self, value: Value, function: Activation) -> Value:
        """Apply ``function`` to x, or ReLU6 to x + 3; a repeated ReLU or ReLU6 is dropped."""
        if function == "none":
            return value
        if function == "relu6" and value.form == "plus_3":
            return replace(value, form="clipped")
        source = self.plain(value)
        last = self.layer(source)
        again = isinstance(last, ActivationLayer) and last.function == function
        if again and function in ("relu", "relu6"):
            return value
        name = self.unique(f"{source}/{function}")
        return Value(layer=self.activation(name, source, function))

    def product(self, name: str, first: Value, second: Value) -> Value:
        """Multiply two values: a step of hard-swish, or a map by a factor per channel."""
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
        inputs = (self.plain(first), self.plain(second))
        if not any(self.shape_of(layer)[1] == 1 for layer in inputs):
            raise InputError("a product of two maps is supported only as a part of hard-swish")
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
        before = self.layers[source.name]
        bias = before.tensors.get("bias", np.zeros(source.shape[0], np.float32)) - np.float32(3)
        name = self.unique(f"{source.name}/minus 3")
        self.stored[name] = self.stored.get(source.name, ())
        moved = replace(source, name=name)
        if isinstance(moved, ConvLayer):
            moved = replace(moved, bias=True)
        self.layers[name] = replace(before, layer=moved, tensors={**before.tensors, "bias": bias})
        return Value(layer=name)

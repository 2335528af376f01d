"""What the tensors of a TensorFlow Lite file hold, operator after operator."""

from __future__ import annotations

import math

from mobilette.errors import InputError
from mobilette.formats.graph import Weights
from mobilette.formats.tflite.input import Pixels, pixels_of
from mobilette.formats.tflite.nodes import Nodes, Value
from mobilette.formats.tflite.schema import ModelRecord, OperatorRecord, TensorRecord
from mobilette.formats.tflite.tensors import Constants

INPUT = "input"
Shape = tuple[int, ...]


class State:
    """The nodes and values so far. Tensors are their numbers in the file.

    Attributes:
        nodes: so far.
        constants: what the file stores.
        scaling: what the network's first operators take as their input, once one has read it.
    """

    def __init__(self, model: ModelRecord, *, most: int) -> None:
        """Start at the network's input; ``most``: numbers that its constants can have in all."""
        self.nodes = Nodes(taken=(INPUT,))
        self.constants = Constants(model, most=most)
        self.scaling: Pixels | None = None
        self._tensors = model.tensors
        self._values: dict[int, Value] = {}
        self._pixels: dict[int, Pixels] = {}
        self._copies: dict[int, int] = {}

    def start(self, index: int) -> tuple[int, int, int]:
        """Take tensor ``index`` as the network's input; return (channels, height, width).

        Raises:
            InputError: it is not a square image of 1 or 3 channels.
        """
        shape = self.shape(index)
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3):
            raise InputError(f"its input is {shape}, not a square image (1, n, n, 1 or 3)")
        if self.is_constant(index):
            raise InputError("its input is a constant")
        self._values[index] = Value(node=INPUT)
        self._pixels[index] = pixels_of(self._tensors[index], shape[3])
        return shape[3], shape[1], shape[2]

    def tensor(self, index: int) -> TensorRecord:
        """Return the record of a tensor or, for a copy of a constant, of that constant."""
        return self._tensors[self._copies.get(index, index)]

    def is_constant(self, index: int) -> bool:
        """Return whether the file stores the tensor, maybe in another type."""
        return index >= 0 and self.tensor(index).data.size > 0

    def constant(self, index: int) -> Weights:
        """Return a constant's real numbers.

        Raises:
            InputError: it is no constant, or damaged.
        """
        if not self.is_constant(index):
            raise InputError("its weights are not constants")
        return self.constants.floats(self._copies.get(index, index))

    def shape(self, index: int) -> Shape:
        """Return the shape of a tensor of activations: (1, height, width, channels) or (1, n).

        Raises:
            InputError: it is of another shape or type.
        """
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
                f"tensor {tensor.name!r:.60} is of shape {shape}; read are (1, height, width,"
                " channels) and (1, n), all fixed but the batch"
            )
        return shape

    def read(self, index: int) -> Value:
        """Return what tensor ``index`` holds.

        Raises:
            InputError: nothing yet, or the input in another scaling than before.
        """
        value = self.value(index)
        pixels = self._pixels.get(index)
        if pixels is not None and self.scaling not in (None, pixels):
            raise InputError("the network reads its input in two different scalings")
        self.scaling = pixels or self.scaling
        return value

    def value(self, index: int) -> Value:
        """Return what tensor ``index`` holds, as `read` does, for operators that only pass it on.

        Raises:
            InputError: nothing yet.
        """
        if index not in self._values:
            which = "an input" if index < 0 else f"tensor {self._tensors[index].name!r:.60}"
            raise InputError(f"it reads {which}, which nothing before it writes")
        return self._values[index]

    def pixels(self, index: int) -> Pixels | None:
        """Return what the tensor says about pixels if it is the input, scaled at most."""
        return self._pixels.get(index)

    def write(self, index: int, value: Value) -> None:
        """Say what tensor ``index``, which is free, holds from here on."""
        self._values[index] = value

    def scale(self, index: int, pixels: Pixels) -> None:
        """Say that what tensor ``index`` holds are these ``pixels``."""
        self._pixels[index] = pixels

    def copy(self, index: int, constant: int) -> None:
        """Say that tensor ``index``, which is free, is ``constant`` in another type.

        Raises:
            InputError: it has another shape.
        """
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
        """Return the names of all tensors of weights, and of those that no node in ``names`` has.

        A constant that no operator reads counts as weights; shapes and factors do not.
        """
        read = {index for operator in operators for index in operator.inputs}
        idle = [
            tensor.name
            for index, tensor in enumerate(self._tensors)
            if tensor.data.size and index not in read
        ]
        used = self.nodes.tensors
        every = dict.fromkeys(name for tensors in used.values() for name in tensors)
        kept = {name for node in used if node in names for name in used[node]}
        unused = [name for name in every if name not in kept]
        return (*every, *idle), (*unused, *idle)


def is_one_pixel(shape: Shape) -> bool:
    """Return whether there are only channels: (1, n) or (1, 1, 1, n)."""
    return math.prod(shape) == shape[-1]

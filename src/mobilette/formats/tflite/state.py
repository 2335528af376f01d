"""What each tensor of a TensorFlow Lite file holds: a constant, or a value computed so far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.primitives import INPUT
from mobilette.errors import InputError
from mobilette.formats.file_layers import Weights
from mobilette.formats.tflite.schema import ModelRecord, OperatorRecord, Quantisation, TensorRecord
from mobilette.formats.values import Pixels, Value, Values

Shape = tuple[int, ...]
_STORED = {
    "float32": "<f4",
    "float16": "<f2",
    "int8": "i1",
    "uint8": "u1",
    "int32": "<i4",
    "int64": "<i8",
}
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}


class State:
    """The layers, values and constants so far; tensors are given by index.

    Methods raise `InputError`. A constant is dequantised once; the total count of numbers is
    limited, since tensors may share bytes of the file.

    Attributes:
        values: the layers so far.
    """

    def __init__(self, model: ModelRecord, *, most: int) -> None:
        """Start empty; ``most`` limits the total count of numbers in constants."""
        self.values = Values()
        self._tensors = model.tensors
        self._left = most
        self._floats: dict[int, Weights] = {}
        self._values: dict[int, Value] = {}
        self._copies: dict[int, int] = {}

    def start(self, index: int) -> None:
        """Take tensor ``index``, an image of 1 or 3 channels, as the network's input."""
        shape = self.shape(index)
        if len(shape) != 4 or shape[3] not in (1, 3):
            raise InputError(f"its input is {shape}, not an image (1, height, width, 1 or 3)")
        if self.is_constant(index):
            raise InputError("its input is a constant")
        self._values[index] = Value(layer=INPUT, pixels=_pixels(self._tensors[index], shape[3]))
        self.values.shape = (shape[3], shape[1], shape[2])

    def tensor(self, index: int) -> TensorRecord:
        """Return a tensor's record or, for a copy of a constant, the constant's."""
        return self._tensors[self._copies.get(index, index)]

    def is_constant(self, index: int) -> bool:
        """Return whether the file stores the tensor, possibly in another type."""
        return index >= 0 and self.tensor(index).data.size > 0

    def constant(self, index: int) -> Weights:
        """Return a constant dequantised, float32, all finite."""
        if not self.is_constant(index):
            raise InputError("its weights are not constants")
        index = self._copies.get(index, index)
        if index not in self._floats:
            tensor = self._tensors[index]
            values = _dequantised(tensor, self._stored(tensor))
            if not np.isfinite(values).all():
                raise InputError(f"{tensor} has values that are not finite")
            self._floats[index] = values
        return self._floats[index]

    def integers(self, index: int) -> list[Any]:
        """Return a small constant of int32 or int64 as (nested) lists."""
        tensor = self._tensors[index]
        if tensor.kind not in ("int32", "int64") or tensor.data.size > 64:
            raise InputError(f"{tensor} is not a few int32 or int64")
        return list(np.atleast_1d(self._stored(tensor)).tolist())

    def _stored(self, tensor: TensorRecord) -> NDArray[Any]:
        if tensor.kind not in _STORED or tensor.sparse:
            kind = "sparse" if tensor.sparse else tensor.kind
            listed = ", ".join(_STORED)
            raise InputError(f"{tensor} is {kind}; supported are {listed}")
        dtype = np.dtype(_STORED[tensor.kind])
        count = math.prod(tensor.shape)
        if min(tensor.shape, default=1) < 1 or tensor.data.size != count * dtype.itemsize:
            raise InputError(
                f"{tensor} has {tensor.data.size:,} bytes, which is not"
                f" {tensor.kind} of shape {tensor.shape}"
            )
        self._left -= count
        if self._left < 0:
            raise InputError("its tensors together are larger than the file")
        return tensor.data.view(dtype).reshape(tensor.shape)

    def shape(self, index: int) -> Shape:
        """Return an activation tensor's shape: (1, height, width, channels) or (1, n)."""
        tensor = self._tensors[index]
        if tensor.kind not in ("float32", "int8", "uint8"):
            raise InputError(
                f"{tensor} is {tensor.kind}; activations must be float32, int8 or uint8"
            )
        shape = tensor.shape
        fixed = len(shape) in (2, 4) and not any(tensor.dynamic[1:])
        if not fixed or shape[0] != 1 or min(shape) < 1:
            raise InputError(
                f"{tensor} is of shape {shape}; only (1, height, width,"
                " channels) and (1, n), all fixed but the batch, are supported"
            )
        return shape

    def value(self, index: int) -> Value:
        """Return what tensor ``index`` holds."""
        if index not in self._values:
            which = "an input" if index < 0 else f"{self._tensors[index]}"
            raise InputError(f"it reads {which}, which no earlier operator writes")
        return self._values[index]

    def plain(self, index: int) -> str:
        """Return the layer whose output tensor ``index`` is."""
        return self.values.plain(self.value(index))

    def write(self, index: int, value: Value) -> None:
        """Set the value of tensor ``index``."""
        self._values[index] = value

    def copy(self, index: int, constant: int) -> None:
        """Record that tensor ``index`` is ``constant`` in another type."""
        self._copies[index] = self._copies.get(constant, constant)
        if self._tensors[index].shape != self.tensor(index).shape:
            raise InputError("its output has a different shape than its input")

    def check_free(self, index: int) -> None:
        """Raise `InputError` if tensor ``index`` holds something already."""
        if index in self._values or index in self._copies or self.is_constant(index):
            name = self._tensors[index].name
            raise InputError(f"it writes tensor {name!r:.60}, which already has a value")

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
        used = self.values.stored
        every = dict.fromkeys(name for tensors in used.values() for name in tensors)
        kept = {name for layer in used if layer in names for name in used[layer]}
        unused = [name for name in every if name not in kept]
        return (*every, *idle), (*unused, *idle)


def is_one_pixel(shape: Shape) -> bool:
    """Return whether there are only channels: (1, n) or (1, 1, 1, n)."""
    return math.prod(shape) == shape[-1]


def value_range(tensor: TensorRecord) -> tuple[float, float] | None:
    """Return the lowest and highest value of a quantised uint8 or int8 tensor, else ``None``."""
    if tensor.kind not in ("int8", "uint8"):
        return None
    scale, zero_point = _scale_and_zero_point(tensor)
    lowest, highest = _LIMITS[tensor.kind]
    return (lowest - zero_point) * scale, (highest - zero_point) * scale


def _scale_and_zero_point(tensor: TensorRecord) -> tuple[float, int]:
    """Return a quantised tensor's single scale, above 0, and zero point."""
    if tensor.quantisation is None or len(tensor.quantisation.scale) != 1:
        raise InputError(f"{tensor} is {tensor.kind} without one scale")
    quantisation = _quantisation(tensor)
    scale = float(quantisation.scale[0])
    if scale <= 0:
        raise InputError(f"{tensor}: scale {scale} is not above 0")
    return scale, int(quantisation.zero_point[0])


def _pixels(tensor: TensorRecord, channels: int) -> Pixels:
    """Return the pixel scaling of the network's input tensor."""
    if tensor.kind == "float32":
        return Pixels(mean=(0.0,) * channels, std=(1.0,) * channels, is_stated=False)
    scale, zero_point = _scale_and_zero_point(tensor)
    # int8 files store pixel - 128
    mean = zero_point + (128 if tensor.kind == "int8" else 0)
    return Pixels(mean=(float(mean),) * channels, std=(1 / scale,) * channels, is_stated=True)


def check_bias_scale(bias: TensorRecord, input_: TensorRecord, weight: TensorRecord) -> None:
    """Raise `InputError` unless an int32 bias has the scale of input times weight.

    Kernels add the bias to sums of stored products, whatever scale the bias states.
    """
    if bias.kind != "int32" or input_.kind not in ("int8", "uint8"):
        return
    if bias.quantisation is None or weight.quantisation is None:
        raise InputError(f"{bias} is int32 without a scale")
    scale, _ = _scale_and_zero_point(input_)
    products = np.float64(scale) * weight.quantisation.scale
    scales = bias.quantisation.scale
    if len({len(scales), len(products), 1}) > 2 or not np.allclose(
        scales, products, rtol=0.01, atol=1e-30
    ):
        raise InputError(f"{bias}: its scale is not input scale times weight scale")


def _dequantised(tensor: TensorRecord, stored: NDArray[Any]) -> Weights:
    if tensor.kind in ("float32", "float16"):
        with np.errstate(invalid="ignore"):  # checked for NaN later
            return stored.astype(np.float32)
    quantisation = _quantisation(tensor)
    scale, zero_point = quantisation.scale, quantisation.zero_point
    if len(scale) > 1:
        sliced = [1] * stored.ndim
        dimension = quantisation.dimension
        if not 0 <= dimension < stored.ndim or stored.shape[dimension] != len(scale):
            raise InputError(
                f"{tensor}: {len(scale)} scales along dimension {dimension} of shape {stored.shape}"
            )
        sliced[dimension] = len(scale)
        scale, zero_point = scale.reshape(sliced), zero_point.reshape(sliced)
    # float32 holds every difference of bytes exactly, but not every int32
    wide = np.float64 if tensor.kind == "int32" else np.float32
    with np.errstate(over="ignore", under="ignore"):
        values = (stored.astype(wide) - zero_point.astype(wide)) * scale
        real: Weights = values.reshape(stored.shape).astype(np.float32)
    return real


def _quantisation(tensor: TensorRecord) -> Quantisation:
    """Return a tensor's quantisation; raise `InputError` if it has none or an impossible one."""
    quantisation = tensor.quantisation
    if quantisation is None or tensor.kind not in _LIMITS:
        raise InputError(f"{tensor} is {tensor.kind} without a scale")
    lowest, highest = _LIMITS[tensor.kind]
    scale, zero_point = quantisation.scale, quantisation.zero_point
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        raise InputError(f"{tensor}: its scale is negative or not finite")
    if not (zero_point >= lowest).all() or not (zero_point <= highest).all():
        raise InputError(f"{tensor}: its zero point is not one of {tensor.kind}")
    return quantisation

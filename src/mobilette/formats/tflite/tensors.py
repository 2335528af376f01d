"""Constants of a TensorFlow Lite file, dequantised, and the ranges of its other tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.errors import InputError
from mobilette.formats.file_layers import Weights
from mobilette.formats.pixels import Pixels
from mobilette.formats.tflite.schema import ModelRecord, TensorRecord

_STORED = {
    "float32": "<f4",
    "float16": "<f2",
    "int8": "i1",
    "uint8": "u1",
    "int32": "<i4",
    "int64": "<i8",
}
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}


class Constants:
    """A file's constants, each dequantised once; wrong or damaged ones raise `InputError`.

    Tensors may share bytes of the file, so the total count of numbers is limited too.
    """

    def __init__(self, model: ModelRecord, *, most: int) -> None:
        """Take constants from ``model``, at most ``most`` numbers in all."""
        self._model = model
        self._left = most
        self._floats: dict[int, Weights] = {}

    def floats(self, index: int) -> Weights:
        """Return tensor ``index`` dequantised, float32, all finite."""
        if index not in self._floats:
            tensor = self._model.tensors[index]
            values = _dequantised(tensor, self._stored(index))
            if not np.isfinite(values).all():
                raise InputError(f"tensor {tensor.name!r:.60} has numbers that are not finite")
            self._floats[index] = values
        return self._floats[index]

    def integers(self, index: int) -> list[Any]:
        """Return tensor ``index``, a small one of int32 or int64, as (nested) lists."""
        tensor = self._model.tensors[index]
        if tensor.kind not in ("int32", "int64") or tensor.data.size > 64:
            raise InputError(f"tensor {tensor.name!r:.60} is not a few int32 or int64")
        return list(np.atleast_1d(self._stored(index)).tolist())

    def _stored(self, index: int) -> NDArray[Any]:
        tensor = self._model.tensors[index]
        if tensor.kind not in _STORED or tensor.sparse:
            kind = "sparse" if tensor.sparse else tensor.kind
            listed = ", ".join(_STORED)
            raise InputError(f"tensor {tensor.name!r:.60} is {kind}; supported are {listed}")
        dtype = np.dtype(_STORED[tensor.kind])
        count = math.prod(tensor.shape)
        if min(tensor.shape, default=1) < 1 or tensor.data.size != count * dtype.itemsize:
            raise InputError(
                f"tensor {tensor.name!r:.60} has {tensor.data.size:,} bytes, which is not"
                f" {tensor.kind} of shape {tensor.shape}"
            )
        self._left -= count
        if self._left < 0:
            raise InputError("its tensors together are larger than the file")
        return tensor.data.view(dtype).reshape(tensor.shape)


def value_range(tensor: TensorRecord) -> tuple[float, float] | None:
    """Return the lowest and highest value of a quantised uint8 or int8 tensor, else ``None``.

    Raises:
        InputError: it does not have one positive scale and a zero point of its type.
    """
    if tensor.kind not in ("int8", "uint8"):
        return None
    scale, zero_point = scale_and_zero_point(tensor)
    lowest, highest = _LIMITS[tensor.kind]
    return (lowest - zero_point) * scale, (highest - zero_point) * scale


def scale_and_zero_point(tensor: TensorRecord) -> tuple[float, int]:
    """Return a quantised tensor's single scale and zero point.

    Raises:
        InputError: it does not have one positive scale and a zero point of its type.
    """
    quantisation = tensor.quantisation
    if quantisation is None or len(quantisation.scale) != 1:
        raise InputError(f"tensor {tensor.name!r:.60} is {tensor.kind} without one scale")
    _check_quantisation(tensor)
    scale = float(quantisation.scale[0])
    if scale <= 0:
        raise InputError(f"tensor {tensor.name!r:.60}: scale {scale} is not above 0")
    return scale, int(quantisation.zero_point[0])


def pixels_of(tensor: TensorRecord, channels: int) -> Pixels:
    """Return the pixel scaling of the network's input tensor.

    Raises:
        InputError: it is neither float32 nor quantised to 8 bits.
    """
    if tensor.kind == "float32":
        return Pixels(mean=(0.0,) * channels, std=(1.0,) * channels, told=False)
    scale, zero_point = scale_and_zero_point(tensor)
    # int8 files store pixel - 128
    mean = zero_point + (128 if tensor.kind == "int8" else 0)
    return Pixels(mean=(float(mean),) * channels, std=(1 / scale,) * channels, told=True)


def check_bias_scale(bias: TensorRecord, input_: TensorRecord, weight: TensorRecord) -> None:
    """Raise `InputError` unless an int32 bias has the scale of input times weight.

    Kernels add the bias to sums of stored products, whatever scale the bias states.
    """
    if bias.kind != "int32" or input_.kind not in ("int8", "uint8"):
        return
    if bias.quantisation is None or weight.quantisation is None:
        raise InputError(f"tensor {bias.name!r:.60} is int32 without a scale")
    scale, _ = scale_and_zero_point(input_)
    products = np.float64(scale) * weight.quantisation.scale
    scales = bias.quantisation.scale
    if len({len(scales), len(products), 1}) > 2 or not np.allclose(
        scales, products, rtol=0.01, atol=1e-30
    ):
        raise InputError(f"tensor {bias.name!r:.60}: its scale is not that of input times weight")


def _dequantised(tensor: TensorRecord, stored: NDArray[Any]) -> Weights:
    if tensor.kind in ("float32", "float16"):
        with np.errstate(invalid="ignore"):  # checked for NaN later
            return stored.astype(np.float32)
    if tensor.quantisation is None or tensor.kind not in _LIMITS:
        raise InputError(f"tensor {tensor.name!r:.60} is {tensor.kind} without a scale")
    _check_quantisation(tensor)
    scale, zero_point = tensor.quantisation.scale, tensor.quantisation.zero_point
    if len(scale) > 1:
        sliced = [1] * stored.ndim
        dimension = tensor.quantisation.dimension
        if not 0 <= dimension < stored.ndim or stored.shape[dimension] != len(scale):
            raise InputError(
                f"tensor {tensor.name!r:.60}: {len(scale)} scales along dimension {dimension}"
                f" of shape {stored.shape}"
            )
        sliced[dimension] = len(scale)
        scale, zero_point = scale.reshape(sliced), zero_point.reshape(sliced)
    # float32 holds every difference of bytes exactly, but not every int32
    wide = np.float64 if tensor.kind == "int32" else np.float32
    with np.errstate(over="ignore", under="ignore"):
        values = (stored.astype(wide) - zero_point.astype(wide)) * scale
        real: Weights = values.reshape(stored.shape).astype(np.float32)
    return real


def _check_quantisation(tensor: TensorRecord) -> None:
    quantisation = tensor.quantisation
    if quantisation is None or tensor.kind not in _LIMITS:
        raise InputError(f"tensor {tensor.name!r:.60} is {tensor.kind} without a scale")
    lowest, highest = _LIMITS[tensor.kind]
    scale, zero_point = quantisation.scale, quantisation.zero_point
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        raise InputError(f"tensor {tensor.name!r:.60}: its scale is negative or not finite")
    if not (zero_point >= lowest).all() or not (zero_point <= highest).all():
        raise InputError(f"tensor {tensor.name!r:.60}: its zero point is not one of {tensor.kind}")

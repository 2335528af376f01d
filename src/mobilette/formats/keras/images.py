"""Keras layers that prepare images: geometry and scaling.

Their effect at inference becomes a `Preprocess`; the network begins behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mobilette.arch.primitives import Shape
from mobilette.data.preprocess import Preprocess, Resize
from mobilette.errors import InputError
from mobilette.formats.keras.layers import KerasLayer
from mobilette.formats.keras.weights import RemainingWeights
from mobilette.formats.values import Numbers, Operation, Step

ARITHMETIC: Mapping[str, Operation] = {
    "Add": "ADD",
    "Subtract": "SUB",
    "Multiply": "MUL",
    "TrueDivide": "DIV",
    "Divide": "DIV",
}
GEOMETRY = ("Resizing", "CenterCrop", "RandomCrop")
NORMALIZATION_EPSILON = 1e-7  # Keras' smallest standard deviation


class Geometry:
    """The geometry of the image so far; unsupported layers raise `InputError`.

    Attributes:
        resize: how the image becomes square, if a layer does it.
        remarks: notes for the user.
    """

    def __init__(self, height: int, width: int) -> None:
        self.side, self.width = height, width  # 0 if the model leaves it open
        self.resize: Resize | None = None
        self.remarks: list[str] = []
        self._crop_fraction = 1.0
        self._is_read = False

    def begin(self, channels: int, resolution: int | None) -> Shape:
        """Return the shape of the network's input, which a layer reads now."""
        self._is_read = True
        height, width = self.side or resolution or 0, self.width or resolution or 0
        if not height or not width:
            raise InputError("takes images of any size; give --resolution")
        return channels, height, width

    def preprocess(self, scaling: Preprocess | None) -> Preprocess | None:
        """Return the preprocessing, if the model scales images."""
        if scaling is None:
            return None
        return replace(scaling, resize=self.resize or "crop", crop_fraction=self._crop_fraction)

    def change(self, layer: KerasLayer) -> None:
        """Record the effect of a layer of `GEOMETRY`."""
        height, width = layer.option("height"), layer.option("width")
        if type(height) is not int or height != width or height < 1:
            raise layer.fault(f"makes images of {width!r}x{height!r:.40}")
        if self._is_read:
            raise layer.fault("follows a layer of the network")
        if layer.kind == "CenterCrop":
            if not self.side or self.side != self.width or height > self.side:
                raise layer.fault(
                    f"crops {height}x{width} pixels of {self.width or 'any'}x"
                    f"{self.side or 'any'}; a larger square is expected"
                )
            if height < self.side and self.resize not in (None, "crop"):
                raise layer.fault("crops an image that was resized without cropping")
            self._crop_fraction *= height / self.side
        elif self.side != height or self.width != width:
            self._resize(layer)
        self.side, self.width = height, width

    def _resize(self, layer: KerasLayer) -> None:
        if self._crop_fraction != 1:
            raise layer.fault("resizes an image that was cropped before")
        if layer.option("pad_to_aspect_ratio", False):
            resize: Resize = "pad"
        elif layer.kind == "RandomCrop" or layer.option("crop_to_aspect_ratio", False):
            resize = "crop"
        else:
            resize = "squash"
        if self.resize not in (None, resize):
            raise layer.fault("resizes in another way than the layer before")
        self.resize = resize
        self.remarks.append(
            f"layer {layer.name!r} resizes images ({resize}); here this happens before the network "
            "and with antialiasing, which Keras does not do"
        )


def arithmetic(layer: KerasLayer, weights: RemainingWeights) -> list[Step]:
    """Return the operations with constants that a layer does; none if it is not arithmetic."""
    if layer.kind == "Rescaling":
        scale, offset = (_numbers(layer.option(name, 0.0)) for name in ("scale", "offset"))
        return [("MUL", scale), ("ADD", offset)]
    if layer.kind == "Normalization":
        return _normalization(layer, weights)
    if layer.kind not in ARITHMETIC or not layer.numbers or len(layer.inputs) != 1:
        return []
    if layer.reverse and layer.kind not in ("Add", "Multiply"):
        raise layer.fault("subtracts its input from a constant, or divides a constant by it")
    return [(ARITHMETIC[layer.kind], layer.numbers)]


def _normalization(layer: KerasLayer, weights: RemainingWeights) -> list[Step]:
    if layer.option("invert", False) or layer.option("axis", -1) not in (-1, 3, [-1], [3], None):
        raise layer.fault("is inverted, or normalises other axes than channels")
    if layer.option("mean") is not None:
        mean, variance = (_numbers(layer.option(name)) for name in ("mean", "variance"))
    else:
        shape = () if layer.option("axis", -1) is None else (None,)
        mean = _numbers(weights.take(layer, "mean", shape).tolist())
        variance = _numbers(weights.take(layer, "variance", shape).tolist())
    if not all(0 <= value < np.inf for value in variance):
        raise layer.fault("has a negative or infinite variance")
    std = tuple(max(value**0.5, NORMALIZATION_EPSILON) for value in variance)
    return [("SUB", mean), ("DIV", std)]


def _numbers(value: object) -> Numbers:
    return tuple(float(number) for number in np.asarray(value, np.float64).ravel())

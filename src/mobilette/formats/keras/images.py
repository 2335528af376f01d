"""Keras layers that prepare images: scaling, geometry, augmentation.

Their effect at inference becomes a `Preprocess`; the network begins behind them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mobilette.arch.primitives import INPUT
from mobilette.data.preprocess import Preprocess, Resize
from mobilette.errors import InputError
from mobilette.formats.keras.layers import KerasLayer
from mobilette.formats.keras.weights import RemainingWeights
from mobilette.formats.pixels import Numbers, Pixels

# Operations with constants, by TensorFlow Lite's names, which `Pixels` knows
ARITHMETIC = {
    "Add": "ADD",
    "Subtract": "SUB",
    "Multiply": "MUL",
    "TrueDivide": "DIV",
    "Divide": "DIV",
}
GEOMETRY = ("Resizing", "CenterCrop", "RandomCrop")
NORMALIZATION_EPSILON = 1e-7  # Keras' smallest standard deviation


class Images:
    """The preprocessing layers read so far; unsupported ones raise `InputError`.

    Attributes:
        side: of the square image in pixels; 0 if the model leaves it open.
        resize: how the image becomes square, if a layer does it.
        remarks: notes for the user.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        pixels = Pixels(mean=(0.0,) * channels, std=(1.0,) * channels, told=False)
        self.side, self._width = height, width
        self.resize: Resize | None = None
        self.remarks: list[str] = []
        self._crop_fraction = 1.0
        self._read: Pixels | None = None
        self._pixels = {INPUT: pixels}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's input."""
        return len(self._pixels[INPUT].mean), self.side, self._width

    def __contains__(self, layer: str) -> bool:
        """Whether the output of ``layer`` is still the image."""
        return layer in self._pixels

    def copy(self, layer: KerasLayer) -> None:
        """Record that ``layer``, which reads the image, does not change it."""
        self._pixels[layer.name] = self._pixels[layer.inputs[0]]

    def read(self, layer: str) -> None:
        """Record that the network reads the output of ``layer``; only one scaling may be read."""
        pixels = self._pixels[layer]
        if self._read not in (None, pixels):
            raise InputError(f"the image is read in two scalings, the second behind {layer!r}")
        self._read = pixels

    def prepare(self, layer: KerasLayer, weights: RemainingWeights) -> bool:
        """Record the effect of ``layer`` on the image; return whether it prepares images."""
        if layer.kind in GEOMETRY:
            self._change_shape(layer)
            self.copy(layer)
            return True
        steps = arithmetic(layer, weights)
        if not steps:
            return False
        pixels = self._pixels[layer.inputs[0]]
        try:
            for name, numbers in steps:
                pixels = pixels.scaled(name, numbers)
        except InputError as error:
            raise InputError(f"layer {layer.name!r}: {error}") from None
        self._pixels[layer.name] = pixels
        return True

    def preprocess(self) -> Preprocess | None:
        """Return the preprocessing, if the model scales images."""
        found = None if self._read is None else self._read.preprocess()
        if found is None:
            return None
        return replace(found, resize=self.resize or "crop", crop_fraction=self._crop_fraction)

    def _change_shape(self, layer: KerasLayer) -> None:
        height, width = layer.option("height"), layer.option("width")
        if type(height) is not int or height != width or height < 1:
            raise InputError(f"layer {layer.name!r} makes images of {width!r}x{height!r:.40}")
        if self._read is not None:
            raise InputError(f"layer {layer.name!r} follows a layer of the network")
        if layer.kind == "CenterCrop":
            if not self.side or self.side != self._width or height > self.side:
                raise InputError(
                    f"layer {layer.name!r} crops {height}x{width} pixels of {self._width or 'any'}x"
                    f"{self.side or 'any'}; a square that is larger is expected"
                )
            if height < self.side and self.resize not in (None, "crop"):
                raise InputError(f"layer {layer.name!r} crops what is resized otherwise before")
            self._crop_fraction *= height / self.side
        elif self.side != height or self._width != width:
            self._resize(layer)
        self.side, self._width = height, width

    def _resize(self, layer: KerasLayer) -> None:
        if self._crop_fraction != 1:
            raise InputError(f"layer {layer.name!r} resizes what is cropped before")
        if layer.option("pad_to_aspect_ratio", False):
            resize: Resize = "pad"
        elif layer.kind == "RandomCrop" or layer.option("crop_to_aspect_ratio", False):
            resize = "crop"
        else:
            resize = "squash"
        if self.resize not in (None, resize):
            raise InputError(f"layer {layer.name!r} resizes otherwise than the layer before")
        self.resize = resize
        self.remarks.append(
            f"layer {layer.name!r} resizes images ({resize}): done before the network here, with "
            "antialiasing, which Keras leaves out"
        )


def arithmetic(layer: KerasLayer, weights: RemainingWeights) -> list[tuple[str, Numbers]]:
    """Return a layer's steps (ADD, SUB, MUL or DIV with constants); none if it is not arithmetic.

    Raises:
        InputError: the input is subtracted from, or divides, a constant.
    """
    if layer.kind == "Rescaling":
        scale, offset = (_numbers(layer.option(name, 0.0)) for name in ("scale", "offset"))
        return [("MUL", scale), ("ADD", offset)]
    if layer.kind == "Normalization":
        return _normalization(layer, weights)
    if layer.kind not in ARITHMETIC or not layer.numbers or len(layer.inputs) != 1:
        return []
    if layer.reverse and layer.kind not in ("Add", "Multiply"):
        raise InputError(f"layer {layer.name!r} is a constant less, or divided by, its input")
    return [(ARITHMETIC[layer.kind], layer.numbers)]


def _normalization(layer: KerasLayer, weights: RemainingWeights) -> list[tuple[str, Numbers]]:
    if layer.option("invert", False) or layer.option("axis", -1) not in (-1, 3, [-1], [3], None):
        raise InputError(
            f"layer {layer.name!r} is inverted, or normalises other axes than channels"
        )
    if layer.option("mean") is not None:
        mean, variance = (_numbers(layer.option(name)) for name in ("mean", "variance"))
    else:
        shape = () if layer.option("axis", -1) is None else (None,)
        mean = _numbers(weights.take(layer, "mean", shape).tolist())
        variance = _numbers(weights.take(layer, "variance", shape).tolist())
    if not all(0 <= value < np.inf for value in variance):
        raise InputError(f"layer {layer.name!r} has a variance that is none")
    std = tuple(max(value**0.5, NORMALIZATION_EPSILON) for value in variance)
    return [("SUB", mean), ("DIV", std)]


def _numbers(value: object) -> Numbers:
    return tuple(float(number) for number in np.asarray(value, np.float64).ravel())

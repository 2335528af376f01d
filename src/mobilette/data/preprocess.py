"""What happens to an image before the network: geometry here, arithmetic in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.errors import InputError, one_of
from mobilette.limits import CROP_FRACTION, MEAN, STD
from mobilette.records import check_ranges

Resize = Literal["crop", "squash", "pad"]
Colour = Literal["rgb", "bgr", "grey"]
Interpolation = Literal["bilinear", "bicubic"]

# A strip of 1 by 100,000 pixels would be enlarged to gigabytes before the crop discards it.
_LONGEST_TO_SHORTEST = 64
_LARGEST_RESIZED = 2**27  # pixels: 400 MB
LARGEST_SHORTER = 8192


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes the input of a network.

    Attributes:
        mean: subtracted from each channel, in pixel units (0 to 255) and the network's channel
            order (B, G, R for ``colour="bgr"``).
        std: divides the difference; same units and order.
        colour: the channels of the network's input. ``"grey"`` is one channel.
        resize: ``"crop"``: shorter side to the resolution, then the centre; ``"squash"``: both
            sides to the resolution; ``"pad"``: longer side to the resolution, the rest filled with
            the mean colour.
        crop_fraction: the part of the resized shorter side that ``"crop"`` keeps.
        interpolation: Pillow's, antialiased. Weights are most accurate with the one they were
            trained with, for most of timm's ``"bicubic"``.
        schema: version of this record; other versions are refused.

    Raises:
        InputError: a value is out of range, or the number of channels does not fit ``colour``.
    """

    mean: Annotated[tuple[float, ...], MEAN]
    std: Annotated[tuple[float, ...], STD]
    colour: Colour = "rgb"
    resize: Resize = "crop"
    crop_fraction: Annotated[float, CROP_FRACTION] = 1.0
    interpolation: Interpolation = "bilinear"
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        one_of(self.colour, get_args(Colour), "colour")
        one_of(self.resize, get_args(Resize), "resize")
        one_of(self.interpolation, get_args(Interpolation), "interpolation")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise InputError(
                    f"{name} has {len(values)} values; {self.colour!r} needs {self.channels}"
                )
        check_ranges(self)

    def check_resolution(self, resolution: int) -> None:
        """Raise `InputError` if images would be enlarged beyond what fits in memory."""
        if self.resize == "crop" and self._shorter(resolution) > LARGEST_SHORTER:
            raise InputError(
                f"crop_fraction {self.crop_fraction} of images at resolution {resolution} needs "
                f"them resized to {self._shorter(resolution):,} pixels; {LARGEST_SHORTER:,} is the "
                "limit"
            )

    @property
    def channels(self) -> int:
        """The number of channels of the network's input: 1 for grey, else 3."""
        return 1 if self.colour == "grey" else 3

    def geometry(
        self, image: Image.Image, resolution: int, *, full_size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Resize an image to the network's resolution.

        Rounds sizes and offsets as torchvision's ``Resize`` and ``CenterCrop`` do, so published
        weights see the pixels they were trained on.

        Args:
            image: of mode ``"RGB"`` or ``"L"``.
            resolution: side of the result, in pixels.
            full_size: the original size of an image from `decode_reduced`.

        Returns:
            uint8 (C, resolution, resolution), contiguous; C is 1 for grey, else 3, always in the
            order R, G, B.
        """
        if self.colour == "grey" and image.mode != "L":
            image = image.convert("L")
        full = full_size or image.size
        if self.resize == "crop":
            image = self._crop(image, resolution, full)
        elif self.resize == "squash":
            image = self._resized(image, (resolution, resolution), full)
        else:
            image = self._pad(image, resolution, full)
        if self.colour != "grey" and image.mode != "RGB":  # after resizing: fewer pixels
            image = image.convert("RGB")
        pixels = np.asarray(image).reshape(resolution, resolution, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def shrinking(self, size: tuple[int, int], resolution: int) -> float:
        """Return the factor by which `geometry` shrinks an image, the smaller of both sides."""
        shorter, longer = sorted(size)
        if longer > self.longest_to_shortest(resolution) * shorter:
            return 1.0
        if self.resize == "pad":
            return longer / resolution
        return shorter * (self.crop_fraction if self.resize == "crop" else 1.0) / resolution

    def with_channels(self, in_channels: int) -> Preprocess:
        """Return this preprocessing for images of 3 channels or 1: grey, mean and std averaged.

        Raises:
            InputError: ``in_channels`` is neither, or would turn grey into colour.
        """
        if in_channels == self.channels:
            return self
        if in_channels != 1:
            raise InputError(
                f"in_channels {in_channels} is not 1 or 3: images have 1 or 3 channels"
            )
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,), colour="grey")

    def fill(self) -> int | tuple[int, ...]:
        """Return the mean colour, RGB or grey, that ``pad`` fills with."""
        fill = tuple(min(max(round(value), 0), 255) for value in self.mean)
        if self.colour == "grey":
            return fill[0]
        return fill[::-1] if self.colour == "bgr" else fill

    def _crop(self, image: Image.Image, resolution: int, full: tuple[int, int]) -> Image.Image:
        longest = self.longest_to_shortest(resolution) * min(full)
        if max(full) > longest:  # never decoded at reduced scale
            image = _centre(image, min(image.width, longest), min(image.height, longest))
            full = image.size
        width, height = full
        shorter = self._shorter(resolution)
        if width <= height:
            size = (shorter, int(shorter * height / width))
        else:
            size = (int(shorter * width / height), shorter)
        return _centre(self._resized(image, size, full), resolution, resolution)

    def longest_to_shortest(self, resolution: int) -> int:
        """Return the ratio of sides above which a strip is cut before ``"crop"`` resizes it."""
        if self.resize != "crop":
            return _LONGEST_TO_SHORTEST
        return min(_LONGEST_TO_SHORTEST, _LARGEST_RESIZED // self._shorter(resolution) ** 2)

    def _shorter(self, resolution: int) -> int:
        """Return the length to which ``"crop"`` resizes the shorter side."""
        return round(resolution / self.crop_fraction)

    def _pad(self, image: Image.Image, resolution: int, full: tuple[int, int]) -> Image.Image:
        scale = resolution / max(full)
        size = (max(1, round(full[0] * scale)), max(1, round(full[1] * scale)))
        image = self._resized(image, size, full)
        if size == (resolution, resolution):
            return image
        if self.colour != "grey":
            image = image.convert("RGB")
        padded = Image.new(image.mode, (resolution, resolution), self.fill())
        padded.paste(image, ((resolution - size[0]) // 2, (resolution - size[1]) // 2))
        return padded

    def _resized(
        self, image: Image.Image, size: tuple[int, int], full: tuple[int, int]
    ) -> Image.Image:
        if image.size == size:
            return image
        method = Image.Resampling[self.interpolation.upper()]
        if image.size == full:
            return image.resize(size, method)
        # Reduced sizes are rounded up. Keeping the part of the last pixel outside the image would
        # shift and
        # stretch everything by up to half a pixel of the result.
        scale = round(max(full) / max(image.size))
        return image.resize(size, method, box=(0, 0, full[0] / scale, full[1] / scale))


PRESETS: Mapping[str, Preprocess] = MappingProxyType(
    {
        "torch": Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
        "tf": Preprocess(mean=(127.5,) * 3, std=(127.5,) * 3),
        "caffe": Preprocess(mean=(104.0, 117.0, 123.0), std=(1.0,) * 3, colour="bgr"),
        "unit": Preprocess(mean=(0.0,) * 3, std=(255.0,) * 3),
        "raw": Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3),
    }
)


def preset(name: str, *, in_channels: int = 3, resize: Resize = "crop") -> Preprocess:
    """Return the preset ``name`` for a network with 3 or 1 input channels.

    For 1 channel the colour is grey, and mean and std are averaged over the preset's channels.

    Raises:
        InputError: no such preset, or ``in_channels`` is neither 1 nor 3.
    """
    chosen = replace(PRESETS[one_of(name, PRESETS, "preset")], resize=resize)
    return chosen.with_channels(in_channels)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))

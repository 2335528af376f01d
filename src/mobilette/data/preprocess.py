"""What happens to an image before the network: geometry here, arithmetic in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.arch.scale import Resolution, resolution_text, size_of
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
        resize: ``"crop"``: as small as covers the resolution, then the centre; ``"squash"``: both
            sides to the resolution; ``"pad"``: as large as fits into the resolution, the rest
            filled with the mean colour.
        crop_fraction: the part of the covered resolution's sides that ``"crop"`` keeps.
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

    def check_resolution(self, resolution: Resolution) -> None:
        """Raise `InputError` if images would be enlarged beyond what fits in memory."""
        longest = max(self.covered(resolution))
        if self.resize == "crop" and longest > LARGEST_SHORTER:
            raise InputError(
                f"crop_fraction {self.crop_fraction} of images at resolution "
                f"{resolution_text(resolution)} needs them resized to {longest:,} pixels; "
                f"{LARGEST_SHORTER:,} is the limit"
            )

    @property
    def channels(self) -> int:
        """The number of channels of the network's input: 1 for grey, else 3."""
        return 1 if self.colour == "grey" else 3

    def geometry(
        self,
        image: Image.Image,
        resolution: Resolution,
        *,
        full_size: tuple[int, int] | None = None,
    ) -> NDArray[np.uint8]:
        """Resize an image to the network's resolution.

        Rounds sizes and offsets as torchvision's ``Resize`` and ``CenterCrop`` do, so published
        weights see the pixels they were trained on.

        Args:
            image: of mode ``"RGB"`` or ``"L"``.
            resolution: of the result.
            full_size: the original size of an image from `decode_reduced`.

        Returns:
            uint8 (C, height, width), contiguous; C is 1 for grey, else 3, always in the
            order R, G, B.
        """
        if self.colour == "grey" and image.mode != "L":
            image = image.convert("L")
        full = full_size or image.size
        height, width = size_of(resolution)
        if self.resize == "crop":
            image = self._crop(image, resolution, full)
        elif self.resize == "squash":
            image = self._resized(image, (width, height), full)
        else:
            image = self._pad(image, resolution, full)
        if self.colour != "grey" and image.mode != "RGB":  # after resizing: fewer pixels
            image = image.convert("RGB")
        pixels = np.asarray(image).reshape(height, width, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def shrinking(self, size: tuple[int, int], resolution: Resolution) -> float:
        """Return the factor by which `geometry` shrinks an image, the smaller of both sides.

        ``size`` is (width, height).
        """
        if self.is_strip(size, resolution):
            return 1.0
        (width, height), (new_height, new_width) = size, size_of(resolution)
        if self.resize == "pad":
            return max(width / new_width, height / new_height)
        kept = self.crop_fraction if self.resize == "crop" else 1.0
        return min(width * kept / new_width, height * kept / new_height)

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

    def is_strip(self, size: tuple[int, int], resolution: Resolution) -> bool:
        """Whether an image of ``size`` (width, height) is cut before ``"crop"`` resizes it."""
        width, height = self._uncut(size, resolution)
        return size[0] > width or size[1] > height

    def _crop(
        self, image: Image.Image, resolution: Resolution, full: tuple[int, int]
    ) -> Image.Image:
        if self.is_strip(full, resolution):  # never decoded at reduced scale
            width, height = self._uncut(full, resolution)
            image = _centre(image, min(image.width, width), min(image.height, height))
            full = image.size
        width, height = full
        tall, wide = self.covered(resolution)
        if wide * height >= tall * width:
            size = (wide, int(wide * height / width))
        else:
            size = (int(tall * width / height), tall)
        new_height, new_width = size_of(resolution)
        return _centre(self._resized(image, size, full), new_width, new_height)

    def _uncut(self, size: tuple[int, int], resolution: Resolution) -> tuple[int, int]:
        """Return the largest width for the height in ``size``, and the largest height."""
        width, height = size
        if self.resize != "crop":
            return _LONGEST_TO_SHORTEST * height, _LONGEST_TO_SHORTEST * width
        tall, wide = self.covered(resolution)
        longest = min(_LONGEST_TO_SHORTEST, _LARGEST_RESIZED // (tall * wide))
        return max(longest * height * wide // tall, 1), max(longest * width * tall // wide, 1)

    def covered(self, resolution: Resolution) -> tuple[int, int]:
        """Return the (height, width) that ``"crop"`` resizes images to cover."""
        height, width = size_of(resolution)
        return round(height / self.crop_fraction), round(width / self.crop_fraction)

    def _pad(
        self, image: Image.Image, resolution: Resolution, full: tuple[int, int]
    ) -> Image.Image:
        height, width = size_of(resolution)
        scale = min(width / full[0], height / full[1])
        size = (max(1, round(full[0] * scale)), max(1, round(full[1] * scale)))
        image = self._resized(image, size, full)
        if size == (width, height):
            return image
        if self.colour != "grey":
            image = image.convert("RGB")
        padded = Image.new(image.mode, (width, height), self.fill())
        padded.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
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

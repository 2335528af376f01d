"""Pixels of any mode become 8-bit RGB or grey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from mobilette.data.unusable import UnusableImage

# Larger images are changed so many pixels at a time: what lies between takes up to 40 bytes each.
_BAND = 2**22


def plain(image: Image.Image) -> Image.Image:
    """Return ``image`` in mode ``"L"``, where it is grey, or ``"RGB"``, transparency over white.

    Raises:
        UnusableImage: its pixels have no fixed range.
    """
    mode = image.mode
    if mode == "F":
        raise UnusableImage("floating-point pixels have no fixed range")
    if mode == "I" or mode.startswith("I;"):
        return _in_bands(image, "L", _eight_bits)
    if image.has_transparency_data:
        grey = mode in {"1", "L", "LA", "La"}
        return _in_bands(image, "L" if grey else "RGB", _over_white)
    if mode in {"L", "RGB"}:
        return image
    if mode == "1":
        return _in_bands(image, "L", lambda band: band.convert("L"))
    if mode in {"P", "CMYK", "YCbCr", "HSV", "RGBX"}:
        return _in_bands(image, "RGB", lambda band: band.convert("RGB"))
    raise UnusableImage(f"colour mode {mode} is not supported")


def _in_bands(
    image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    rows = max(_BAND // image.width, 1)
    if image.height <= rows:
        return change(image)
    whole = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        whole.paste(change(image.crop(box)), box)
    return whole


def _eight_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UnusableImage("grey levels outside 0 to 65535 have no fixed range")
    pixels = ((levels + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[levels == transparent] = 255
    return Image.fromarray(pixels)


def _over_white(image: Image.Image) -> Image.Image:
    grey = image.mode in {"1", "L", "LA", "La"}
    with_alpha = image.convert("LA" if grey else "RGBA")
    mode = "L" if grey else "RGB"
    canvas = Image.new(mode, image.size, "white")
    canvas.paste(with_alpha.convert(mode), mask=with_alpha.getchannel("A"))
    return canvas

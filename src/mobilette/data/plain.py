"""Make images upright, and 8-bit RGB or grey."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

from mobilette.data.formats import DAMAGED, UnusableImage

# Pixels converted at a time: intermediate arrays take up to 40 bytes each.
_BAND = 2**22


def plain(image: Image.Image) -> Image.Image:
    """Return ``image`` as ``"L"`` if it is grey, else ``"RGB"``, transparency over white.

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


_ORIENTATION = 0x0112  # EXIF 2.32, table 4
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PREFIX = b"Exif\0\0"
_ENTRY = 12
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

Turn = Image.Transpose | None


def turn_of(exif: bytes, xmp: bytes = b"") -> Turn:
    """Return what makes an image upright, ``None`` for nothing.

    ``exif`` is an EXIF block, with or without its prefix; ``xmp`` is an XMP packet, used if the
    block has no orientation. Either may be empty.
    """
    value = _of_exif(exif)
    if value is None and (found := _XMP.search(xmp)):
        value = int(found[1])
    return _UPRIGHT.get(value or 1)


def turn_of_image(image: Image.Image) -> Turn:
    """Return what makes an image upright that the caller has opened and loaded."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except DAMAGED:
        return None


def _of_exif(block: bytes) -> int | None:
    while block.startswith(_PREFIX):
        block = block[len(_PREFIX) :]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return None
    (count,) = struct.unpack_from(f"{order}H", block, start)
    end = min(start + 2 + _ENTRY * count, len(block) - _ENTRY + 1)
    for at in range(start + 2, end, _ENTRY):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, at)
        if tag == _ORIENTATION:
            wide: int = struct.unpack_from(f"{order}I", block, at + 8)[0]
            return {1: block[at + 8], 3: value, 4: wide}.get(kind)
    return None

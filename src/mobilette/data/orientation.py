"""How an image has to be turned, as its metadata tell.

Only the one entry is read. Pillow's `getexif` reads every entry, each of which may claim all of the
block: a block of a megabyte would take gigabytes.
"""

from __future__ import annotations

import re
import struct

from PIL import Image

from mobilette.data.unusable import DAMAGED

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

    Args:
        exif: an EXIF block, with or without its prefix; empty for none.
        xmp: an XMP packet, for what the block does not tell.
    """
    value = _of_exif(exif)
    if value is None and (found := _XMP.search(xmp)):
        value = int(found[1])
    return _UPRIGHT.get(value or 1)


def turn_of_image(image: Image.Image) -> Turn:
    """Return what makes an image upright that somebody else has opened and loaded."""
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

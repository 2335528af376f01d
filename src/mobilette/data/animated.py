"""Images of several frames, of which only the first is looked at."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from mobilette.data.decoding import MAX_BYTES
from mobilette.data.formats import DAMAGED, HEAD, format_of
from mobilette.silence import NO_WARNINGS

# Files of these names are asked; a photograph has one frame.
_SUFFIXES = (".gif", ".webp", ".apng")
_FORMATS = ("GIF", "WEBP", "PNG")


def is_animated(image: str | Path | bytes) -> bool:
    """Whether a GIF, WebP or PNG has more than one frame; false if it cannot be read.

    ``image`` is a file, which is read only if its name ends in .gif, .webp or .apng, or encoded
    bytes.
    """
    if isinstance(image, bytes):
        return format_of(image[:HEAD]) in _FORMATS and _is_animated(io.BytesIO(image))
    if not os.fspath(image).lower().endswith(_SUFFIXES):
        return False
    path = Path(image)
    try:
        small = path.is_file() and path.stat().st_size <= MAX_BYTES
    except (OSError, ValueError):  # ValueError for a name with a zero byte
        return False
    return small and _is_animated(path)


def _is_animated(source: Path | io.BytesIO) -> bool:
    try:
        with NO_WARNINGS, Image.open(source, formats=_FORMATS) as image:
            return bool(getattr(image, "is_animated", False))
    except (*DAMAGED, Image.DecompressionBombError, MemoryError):
        return False

"""Images of several frames, of which only the first is looked at."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from mobilette.data.decoding import MAX_BYTES
from mobilette.data.formats import DAMAGED
from mobilette.silence import NO_WARNINGS

# Files of these names are asked; a photograph has one frame.
_SUFFIXES = (".gif", ".webp", ".apng")
_FORMATS = ("GIF", "WEBP", "PNG")


def is_animated(path: str | Path) -> bool:
    """Whether a GIF, WebP or APNG file has more than one frame; false if it cannot be read."""
    if not os.fspath(path).lower().endswith(_SUFFIXES):
        return False
    path = Path(path)
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return False
        with NO_WARNINGS, Image.open(path, formats=_FORMATS) as image:
            return bool(getattr(image, "is_animated", False))
    except (*DAMAGED, Image.DecompressionBombError, MemoryError):
        return False

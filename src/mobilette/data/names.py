"""What the name of a file tells about it. A hint: whether it is a picture, its content decides."""

from __future__ import annotations

from pathlib import Path

from mobilette.data.formats import HEAD, is_picture

# Everybody's pictures, those included that nothing here decodes: these are counted, not lost.
_ENDINGS = """
    jpg jpeg jpe jfif jif pjpeg pjp mpo png apng bmp dib gif tif tiff webp ppm pgm pbm pnm
    avif avifs heic heics heif heifs hif jp2 j2k j2c jpc jpf jpx tga
    jxl psd svg svgz ico cur pam qoi dds exr hdr pcx xcf eps dng cr2 cr3 nef arw orf raf rw2
"""
SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
# What systems leave in folders, beside the names that begin with a dot.
_LITTER = frozenset(
    ("__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "icon\r")
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is nobody's: hidden, or a system's litter."""
    return name.startswith(".") or name.lower() in _LITTER


def may_be_picture(path: Path) -> bool:
    """Whether the file ``path`` has the name of a picture or, if not, begins as one does.

    A file whose name tells nothing is opened for its first bytes; no pipe or device ever is.
    """
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return is_picture(file.read(HEAD))
    except (OSError, ValueError):
        return False

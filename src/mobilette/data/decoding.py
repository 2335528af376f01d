"""A file becomes a picture in 8-bit RGB or grey, or there is a plain reason why not."""

from __future__ import annotations

import io
import stat
import struct
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

MAX_BYTES = 512 * 1024**2
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

# How much larger than the result of the resize a JPEG decoded at reduced scale must still be.
MARGIN = 2.0
_SCALES = (8, 4, 2)

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
# The first four are what a million damaged files made Pillow's plugins raise while loading; the
# others are what its ImageFile expects from the same plugins while opening.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
)


class _Quiet:
    """Without Pillow's warnings about odd metadata and large sizes: neither prevents use.

    Warning filters belong to the process: two threads that swap them in turns leave them swapped.
    So the first thread that decodes sets them, and the last one sets them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore", UserWarning)
                warnings.simplefilter("ignore", RuntimeWarning)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


_QUIET = _Quiet()


class UnusablePicture(Exception):
    """A file that is no usable picture. The message is the reason, one short line, no path."""


def decode(source: Path | bytes) -> Image.Image:
    """Decode one picture, upright, without transparency.

    The EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8
    bits, and of several frames the first counts.

    Args:
        source: a file, read once, or its bytes.

    Returns:
        A loaded image of mode ``"L"`` for grey sources, else ``"RGB"``.

    Raises:
        UnusablePicture: the file is empty, too large, truncated, damaged or no picture, or has
            pixels (floating-point, for one) that have no fixed range.
    """
    return decode_reduced(source, lambda _: 1.0)[0]


def decode_reduced(
    source: Path | bytes, shrinking: Callable[[tuple[int, int]], float]
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode one picture as `decode` does, a JPEG at 1/2, 1/4 or 1/8 of its size if that suffices.

    libjpeg computes the smaller picture from the coefficients (scaled DCT), in a part of the time.
    It suffices while the picture stays ``MARGIN`` times as large, a side, as what it is resized
    to: 200 photographs (288 pixels high, resized to 32, 48, 64 and 72) then differ from the exact
    result by 0.4 to 0.7 of 255 levels on average; with a margin of 1 it is 1.2 to 2.3.

    Args:
        source: a file, read once, or its bytes.
        shrinking: by how much a picture of this width and height is made smaller afterwards.

    Returns:
        The image, and the width and height that it has at full scale.

    Raises:
        UnusablePicture: as for `decode`.
    """
    data = source if isinstance(source, bytes) else read_encoded(source)
    if not data:
        raise UnusablePicture("empty file (0 bytes)")
    check_size(len(data))
    with _QUIET:
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                _reduce(image, shrinking((width, height)))
                reduced = image.size
                image.load()
                upright = upright_and_plain(image)
        except UnidentifiedImageError:
            raise UnusablePicture(f"not a picture ({', '.join(FORMATS)} are read)") from None
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise UnusablePicture(f"too many pixels (the limit is {limit:,})") from None
        except MemoryError:
            raise UnusablePicture("too large for the memory") from None
        except DAMAGED as error:
            raise UnusablePicture(_reason(error)) from error
    if reduced == (width, height):
        return upright, upright.size
    turned = upright.size != reduced
    return upright, (height, width) if turned else (width, height)


def upright_and_plain(image: Image.Image) -> Image.Image:
    """Return an opened picture as `decode` would have: upright, ``"L"`` or ``"RGB"``, opaque.

    Raises:
        UnusablePicture: its pixels have no fixed range.
    """
    return _plain(_upright(image))


def read_encoded(path: Path) -> bytes:
    """Return the bytes of a picture's file, its kind and size checked before.

    Raises:
        UnusablePicture: it is too large, no regular file, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnusablePicture("not a regular file")
        check_size(status.st_size)
        return path.read_bytes()
    except OSError as error:
        raise UnusablePicture(f"cannot be read: {error.strerror or error}") from error


def _reduce(image: Image.Image, shrinking: float) -> None:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return
    for scale in _SCALES:
        if shrinking < MARGIN * scale:
            continue
        # Sizes are rounded up, to the right and below; turned, that would be another side.
        whole = image.width % scale == 0 and image.height % scale == 0
        if whole or _turn(image) is None:
            image.draft(None, (image.width // scale, image.height // scale))
            return


def check_size(size: int) -> None:
    """Raise `UnusablePicture` for a file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        mebibytes = MAX_BYTES // 1024**2
        raise UnusablePicture(f"file of {size:,} bytes (the limit is {mebibytes} MiB)")


def _reason(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text[:80] or type(error).__name__}"


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes the EXIF block again, which fails on real photographs.
    method = _turn(image)
    return image if method is None else image.transpose(method)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except DAMAGED:
        return None
    return _UPRIGHT.get(orientation)


def _plain(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "F":
        raise UnusablePicture("floating-point pixels have no fixed range")
    if mode == "I" or mode.startswith("I;"):
        return _eight_bits(image)
    if image.has_transparency_data:
        return _over_white(image)
    if mode in {"L", "RGB"}:
        return image
    if mode == "1":
        return image.convert("L")
    if mode in {"P", "CMYK", "YCbCr", "HSV", "RGBX"}:
        return image.convert("RGB")
    raise UnusablePicture(f"colour mode {mode} is not supported")


def _eight_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise UnusablePicture("grey levels outside 0 to 65535 have no fixed range")
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

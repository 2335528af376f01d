"""Decode a file to an 8-bit RGB or grey image, or say why it cannot be decoded."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, JpegImagePlugin, UnidentifiedImageError, features

from mobilette.data.formats import (
    DAMAGED,
    HEAD,
    TGA_FOOTER,
    TooLarge,
    UnusableImage,
    WrongFormat,
    format_of,
    reason_of,
    what_it_is,
)
from mobilette.data.machine import available_memory
from mobilette.data.plain import Turn, plain, turn_of, turn_of_image
from mobilette.data.trimming import trim
from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.silence import NO_WARNINGS

MAX_BYTES = 512 * 1024**2
MAX_PIXELS = 178_956_970
# Pillow's other plugins are excluded: some run programs, and most formats are obsolete.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "TGA")

# A JPEG decoded at reduced scale must be this many times larger than the resized result.
MARGIN = 2.0
_SCALES = (8, 4, 2)

# Bytes of pixels decoded at the same time, over all threads.
_AT_ONCE = 2**30
# Smaller images do not count.
_SMALL = 2**24
# Bytes per pixel in Pillow, and the extra bytes that some formats need while decoding.
_NARROW = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_BESIDE = {"JPEG2000": 16, "AVIF": 8, "WEBP": 8, "HEIC": 8}


class _Allowance:
    """Makes threads with large images wait for each other, to limit memory."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._freed = threading.Condition()
        self._taken = 0

    @contextmanager
    def taking(self, size: int) -> Iterator[None]:
        if size < _SMALL:
            yield
            return
        if self._process != os.getpid():
            self._begin()
        free = available_memory()
        if free is not None and size > free:
            raise TooLarge(f"too large for the memory: {size / 1e6:,.0f} of {free / 1e6:,.0f} MB")
        with self._freed:
            self._freed.wait_for(lambda: self._taken == 0 or self._taken + size <= _AT_ONCE)
            self._taken += size
        try:
            yield
        finally:
            with self._freed:
                self._taken -= size
                self._freed.notify_all()


_ALLOWANCE = _Allowance()


def decode(source: Path | bytes, *, most_pixels: int | None = None) -> Image.Image:
    """Decode one image, upright, without transparency.

    Applies the EXIF orientation, lays transparency over white, scales 16-bit grey to 8 bits and
    takes the first of several frames. The cost is bounded by the file's bytes (`MAX_BYTES`), its
    pixels (`MAX_PIXELS`) and `mobilette.data.trimming`. A file is read once.

    ``most_pixels`` is a lower limit, of what the file declares.

    Returns:
        A loaded image of mode ``"L"`` for grey sources, else ``"RGB"``.

    Raises:
        UnusableImage: the file is empty, too large, truncated, damaged or not an image, its pixels
            have no fixed range (floating-point, for example), or a package is missing.
    """
    return decode_reduced(source, lambda _: 1.0, most_pixels=most_pixels)[0]


def decode_reduced(
    source: Path | bytes,
    shrinking: Callable[[tuple[int, int]], float],
    *,
    most_pixels: int | None = None,
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode one image like `decode`, a JPEG at 1/2, 1/4 or 1/8 of its size if that suffices.

    libjpeg computes the smaller image from the coefficients (scaled DCT) in a fraction of the time.
    It suffices while each side stays ``MARGIN`` times as long as what it is resized to: 200
    photographs (288 pixels high, resized to 32, 48, 64 and 72) then differ from the exact result by
    0.4 to 0.7 of 255 levels on average; with a margin of 1 by 1.2 to 2.3.

    ``shrinking`` returns the factor by which an image of this width and height is shrunk later.

    Returns:
        The image, and its width and height at full scale.

    Raises:
        UnusableImage: as for `decode`.
    """
    data = source if isinstance(source, bytes) else read_encoded(source)
    if not data:
        raise UnusableImage("empty file (0 bytes)")
    check_size(len(data))
    with NO_WARNINGS:  # about odd metadata and large sizes: neither prevents use
        try:
            opaque, turn, full = _decoded(data, shrinking, most_pixels)
            upright = opaque if turn is None else opaque.transpose(turn)
        except UnidentifiedImageError:
            raise UnusableImage("damaged: its head cannot be read") from None
        except Image.DecompressionBombError:
            raise _too_many_pixels(most_pixels or MAX_PIXELS) from None
        except MemoryError:
            raise TooLarge("too large for the memory") from None
        except DAMAGED as error:
            raise UnusableImage(reason_of(error)) from error
    if opaque.size == full:
        return upright, upright.size
    return upright, full[::-1] if upright.size != opaque.size else full


def _decoded(
    data: bytes, shrinking: Callable[[tuple[int, int]], float], most_pixels: int | None
) -> tuple[Image.Image, Turn, tuple[int, int]]:
    """Return the opaque image, its orientation, and its size at full scale."""
    form = _format(data)
    trimmed, turn = trim(data, form)
    if form == "HEIC":
        opaque = _heic(trimmed, most_pixels)
        return opaque, None, opaque.size
    with Image.open(io.BytesIO(trimmed), formats=(form,)) as image:
        full = image.size
        if most_pixels is not None:
            check_pixels(full[0] * full[1], most_pixels)
        if form in ("WEBP", "AVIF"):
            turn = turn_of(image.info.get("exif", b""), image.info.get("xmp", b""))
        _reduce(image, shrinking(full), turned=turn is not None)
        with _ALLOWANCE.taking(_cost(image.size, image.mode, form, turned=turn is not None)):
            image.load()
            return plain(image), turn, full


def _format(data: bytes) -> str:
    """Return the file's format, one of `FORMATS` or ``"HEIC"``."""
    form = "TGA" if data.endswith(TGA_FOOTER) else format_of(data[:HEAD])
    if form is None:
        known = f"{', '.join(FORMATS)} and HEIC are read"
        raise WrongFormat(f"not an image ({what_it_is(data[:HEAD]) or known})")
    if form not in (*FORMATS, "HEIC") or (form == "AVIF" and not features.check("avif")):
        raise WrongFormat(f"{form} is not decoded here; convert it to PNG or JPEG")
    return form


def _heic(data: bytes, most_pixels: int | None) -> Image.Image:
    try:
        with needs("heic", "a HEIC image"):
            import pillow_heif
    except InputError as error:
        raise WrongFormat(str(error)) from error
    file = pillow_heif.open_heif(data)
    check_pixels(file.size[0] * file.size[1], most_pixels or MAX_PIXELS)
    with _ALLOWANCE.taking(_cost(file.size, "RGB", "HEIC", turned=False)):
        return plain(file.to_pillow())


def _cost(size: tuple[int, int], mode: str, form: str, *, turned: bool) -> int:
    """Return the most bytes that decoding takes; raise `UnusableImage` for too many pixels."""
    pixels = size[0] * size[1]
    check_pixels(pixels)
    result = 1 if mode in {"1", "L", "LA"} or mode.startswith("I") else 4
    result = 0 if mode in {"L", "RGB"} else result
    return pixels * (_NARROW.get(mode, 4) * (1 + turned) + result + _BESIDE.get(form, 0))


def check_pixels(pixels: int, most: int = MAX_PIXELS) -> None:
    """Raise `TooLarge` for more than ``most``."""
    if pixels > most:
        raise _too_many_pixels(most)


def _too_many_pixels(most: int) -> TooLarge:
    return TooLarge(f"too many pixels (the limit is {most:,})")


def upright_and_plain(image: Image.Image) -> Image.Image:
    """Convert an opened image as `decode` does: upright, ``"L"`` or ``"RGB"``, opaque.

    Raises:
        UnusableImage: it has no pixels, or they have no fixed range.
    """
    if 0 in image.size:
        raise UnusableImage("has no pixels")
    image.load()  # a TIFF is upright after this
    turn = turn_of_image(image)
    opaque = plain(image)
    return opaque if turn is None else opaque.transpose(turn)


def read_encoded(path: Path) -> bytes:
    """Return an image file's bytes after checking its type and size.

    Raises:
        UnusableImage: it is too large, not a regular file, or unreadable.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImage("not a regular file")
        check_size(status.st_size)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError for a name with a zero byte
        raise UnusableImage(
            f"cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def _reduce(image: Image.Image, shrinking: float, *, turned: bool) -> None:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return
    for scale in _SCALES:
        if shrinking < MARGIN * scale:
            continue
        # Sizes round up at the right and bottom, which would be another side once turned.
        whole = image.width % scale == 0 and image.height % scale == 0
        if whole or not turned:
            image.draft(None, (image.width // scale, image.height // scale))
            return


def check_size(size: int) -> None:
    """Raise `TooLarge` for a file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        mebibytes = MAX_BYTES // 1024**2
        raise TooLarge(f"file of {size:,} bytes (the limit is {mebibytes} MiB)")

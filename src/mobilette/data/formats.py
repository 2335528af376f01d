"""Recognise image formats by a file's first bytes, and say why a file is unusable."""

from __future__ import annotations

import re
import struct


class UnusableImage(Exception):
    """A file that cannot be used as an image; the message is the reason, without the path."""


class WrongFormat(UnusableImage):
    """A file that is no image, or one of a format that is not decoded here."""


class TooLarge(UnusableImage):
    """An image of more bytes or pixels than are allowed."""


# The first four are what a million damaged files made Pillow's plugins raise while loading; the
# others are what ImageFile expects from plugins while opening, and failed assertions.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    AssertionError,
    AttributeError,
    RuntimeError,
)


def reason_of(error: BaseException) -> str:
    """Return what is wrong with an image for which Pillow raised one of `DAMAGED`."""
    text = str(error).partition("\n")[0]
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text[:80] or type(error).__name__}"


# Bytes needed to tell the formats apart.
HEAD = 64
# The end of a TGA 2.0 file; older ones cannot be told from noise.
TGA_FOOTER = b"TRUEVISION-XFILE.\0"

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    # Images that are not decoded here, by their common name.
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\x02\0", "ICO"),
    (b"gimp xcf", "GIMP (XCF)"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance (HDR)"),
    (b"%!PS-Adobe", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"P7\n", "PAM"),
)
_NETPBM = re.compile(rb"P[1-6f][ \t\n\v\f\r#]")
_SVG = re.compile(rb"\s*(?:<\?xml.*|<!--.*|<!DOCTYPE\s+)?<?svg[\s>]", re.DOTALL)
# Major brands of ISO base media files, the containers of HEIC and AVIF.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"
    ),
    b"crx ": "camera raw",
}
# "Any still image" and "any sequence": the other brands tell the codec.
_ANY = (b"mif1", b"msf1", b"miaf", b"mif2")

# What files with an image's name may be instead.
_OTHERS = (
    (re.compile(rb"\s*<(?:!doctype html|html|head|body)", re.IGNORECASE), "HTML, a web page"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb"\x1f\x8b"), "compressed with gzip"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS; the image was not fetched"),
    (re.compile(rb"\s*[\[{]"), "JSON or the like"),
    (re.compile(rb"\x1aE\xdf\xa3|....ftyp|RIFF....AVI ", re.DOTALL), "a video"),
)


def format_of(head: bytes) -> str | None:
    """Return the format of an image from its first `HEAD` bytes; ``None`` if not an image.

    Pillow's name of the format, ``"HEIC"``, or the common name of one that is not decoded here.
    """
    if head.startswith(b"RIFF"):
        return "WEBP" if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":
        return _brand(head)
    if head.startswith((b"II*\0", b"MM\0*")) and head[8:11] == b"CR\2":
        return "camera raw"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if _NETPBM.match(head):
        return "PPM"
    return "SVG" if _SVG.match(head) else None


def is_image(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is certainly an image, whatever its name.

    Two letters prove nothing: a text may begin with "BM" or "P1".
    """
    found = format_of(head)
    if found == "BMP":
        return head[14:18] in _BMP_HEADERS and head[6:10] == bytes(4)
    return found is not None and found not in ("PPM", "ICO", "SVG", "JPEG XL")


def what_it_is(head: bytes) -> str:
    """Say what a non-image file that begins with ``head`` is; empty if unknown."""
    return next((name for pattern, name in _OTHERS if pattern.match(head)), "")


_BMP_HEADERS = tuple(bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124))


def _brand(head: bytes) -> str | None:
    size = int.from_bytes(head[:4], "big")
    brands = [head[at : at + 4] for at in (8, *range(16, min(size, len(head)), 4))]
    if brands[0] in _BRANDS:
        return _BRANDS[brands[0]]
    if brands[0] not in _ANY:
        return None
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "HEIC")

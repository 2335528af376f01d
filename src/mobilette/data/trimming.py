"""Reduce an image's file to what decoding needs.

Comments, profiles and previews are removed before Pillow sees a file. They may be megabytes that it
refuses (PNG text) or reads byte by byte, and a hostile file can make each cost far more than its
size. The cost of what is left is bounded by the file's length and the image's size.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from mobilette.data.formats import UnusableImage
from mobilette.data.plain import Turn, turn_of

# An image has some dozens of parts before its pixels; each costs time however small it is.
MOST_PARTS = 2**16
# Each scan of a progressive JPEG covers the whole image: the most pixels over all scans.
MOST_SCANNED = 2**31
# Bytes, for formats that are decoded in Python.
MOST_IN_PYTHON = 2**21
_MOST_METADATA = 2**20

_FILL = re.compile(b"\xff*")
_TO_NEXT_BLOCK = re.compile(b"[^!,;]*")
_RAW_EXIF = b"Raw profile type exif"
_PNG_XMP = b"XML:com.adobe.xmp"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def trim(data: bytes, form: str) -> tuple[bytes, Turn]:
    """Return what decoding needs of a file of the format ``form``, and any removed orientation.

    Raises:
        UnusableImage: it ends before its pixels, or would take too long.
    """
    try:
        if form == "JPEG":
            return _jpeg(data)
        if form == "PNG":
            return _png(data)
        if form == "GIF":
            return _gif(data), None
        if form in ("AVIF", "HEIC"):
            return _without_exif(data), None
        if form == "PPM":
            return binary(data, limit=MOST_IN_PYTHON), None
    except (IndexError, struct.error):
        raise UnusableImage("truncated") from None
    if form == "BMP" and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0") and len(data) > MOST_IN_PYTHON:
        raise UnusableImage(f"run-length coded BMP of {len(data):,} bytes takes too long")
    if form == "TIFF":
        check_tiff(data, most=MOST_PARTS)
    if form == "JPEG2000" and b"\xff\xd9" not in data:  # its end; OpenJPEG makes the rest black
        raise UnusableImage("truncated")
    return data, None


def _jpeg(data: bytes) -> tuple[bytes, Turn]:
    """Leave out APP1 to APP13, APP15 and comments; ITU-T T.81, annex B."""
    kept, at, exif, xmp = [data[:2]], 2, b"", b""
    frame, sequential = bytes(8), False
    for _ in range(MOST_PARTS):
        at = data.find(b"\xff", at)
        found = _FILL.match(data, at) if at >= 0 else None
        if found is None:
            raise UnusableImage("truncated")
        marker, at = data[found.end()], found.end() + 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            raise UnusableImage("damaged: it ends before its image")
        (length,) = struct.unpack_from(">H", data, at)
        body, at = data[at : at + length], at + length
        if length < 2 or len(body) < length:
            raise UnusableImage("truncated")
        if marker == 0xE1:
            exif = exif or (body[2:] if body[2:8] == b"Exif\0\0" else b"")
            xmp = xmp or (body[2:] if body.startswith(_JPEG_XMP, 2) else b"")
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            kept.append(bytes((0xFF, marker)) + body)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, sequential = body, marker in (0xC0, 0xC1)
        if marker == 0xDA:
            # A single scan of all components is complete, and the usual case.
            if not (sequential and body[2] == frame[7]):
                _check_scans(data, at, frame)
            return b"".join((*kept, memoryview(data)[at:])), turn_of(exif, xmp)
    raise UnusableImage(f"more than {MOST_PARTS:,} parts before its image")


def _check_scans(data: bytes, at: int, frame: bytes) -> None:
    pixels = int.from_bytes(frame[3:5], "big") * int.from_bytes(frame[5:7], "big")
    end = data.find(b"\xff\xd9", at)
    scans = 1 + data.count(b"\xff\xda", at, end if end >= 0 else len(data))
    if scans * pixels > MOST_SCANNED:
        raise UnusableImage(f"{scans:,} scans of {pixels:,} pixels take too long")


def _png(data: bytes) -> tuple[bytes, Turn]:
    """Leave out non-critical chunks except transparency; PNG specification, 5.3 and 11.3."""
    kept: list[memoryview] = []
    view, exif, xmp = memoryview(data), b"", b""
    first, at = 0, 8  # everything from ``first`` on is kept so far
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name.isalpha() and name[0:1].islower() and name != b"tRNS" and end <= len(data):
            kept.append(view[first:at])
            first = end
            if length <= _MOST_METADATA:
                body = data[at + 8 : end - 4]
                if name == b"eXIf":
                    exif = exif or body
                elif body.startswith(_RAW_EXIF):
                    exif = exif or _raw_exif(_text(name, body))
                elif body.startswith(_PNG_XMP):
                    xmp = xmp or _text(name, body)
        at = end
        if name == b"IEND":
            break
    else:
        raise UnusableImage(f"more than {MOST_PARTS:,} parts")
    kept.append(view[first:at])
    return b"".join(kept), turn_of(exif, xmp)


def _text(name: bytes, body: bytes) -> bytes:
    """Return the text of a PNG text chunk up to a limit; PNG specification, 11.3.3."""
    rest = body.partition(b"\0")[2]
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    if not packed:
        return rest
    try:
        return zlib.decompressobj().decompress(rest, _MOST_METADATA)
    except zlib.error:
        return b""


def _raw_exif(text: bytes) -> bytes:
    """Return the block that ImageMagick writes in hexadecimal, after a name and a length."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _gif(data: bytes) -> bytes:
    """Leave out comments and the like before the first image; GIF89a, 18 to 26."""
    head = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    at, control, parts = head, b"", 0
    while True:
        found = _TO_NEXT_BLOCK.match(data, at)
        at = found.end() if found else at
        start = data[at : at + 1]
        if start == b",":
            return data[:head] + control + data[at:]
        if start != b"!":
            raise UnusableImage("damaged: no image in it" if start else "truncated")
        begin, at = at, at + 2
        while length := data[at]:
            at, parts = at + 1 + length, parts + 1
            if parts > MOST_PARTS:
                raise UnusableImage(f"more than {MOST_PARTS:,} parts before its image")
        at += 1
        if data[begin + 1] == 0xF9:
            control = data[begin:at]


def _without_exif(data: bytes) -> bytes:
    """Rename the EXIF of a HEIC or AVIF, so that only its container tells the orientation."""
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + length if length >= 8 else len(data)
        if name == b"meta":
            return data[:at] + data[at:end].replace(b"Exif", b"none") + data[end:]
        at = end
    return data


# TIFF 6.0, section 2; BigTIFF adds the last ones.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_SUBFILE, _BYTE_COUNTS, _TILE_BYTE_COUNTS = 254, 279, 325
_DNG = 50706
# Tags that hold one value per strip, tile or channel.
_LISTS = (258, 273, 279, 324, 325, 338, 339)
_REDUCED = 1
# Strips may share bytes, but if each reads the whole file, decoding takes forever.
_MOST_READ = 4


def check_tiff(data: bytes, *, most: int) -> None:
    """Check the first directory of a TIFF, which may have at most ``most`` strips or tiles.

    Raises:
        UnusableImage: it has more, reads the file over and over, or is a camera's raw image, whose
            first directory is a preview.
    """
    read = 0
    for tag, kind, count, value, order in _entries(data):
        if tag == _DNG or (tag == _SUBFILE and value & _REDUCED):
            raise UnusableImage("a camera's raw image; develop it to JPEG or TIFF")
        if tag in _LISTS and count > most:
            raise UnusableImage(f"{count:,} strips or tiles (the limit is {most:,})")
        if tag in (_BYTE_COUNTS, _TILE_BYTE_COUNTS) and kind in (3, 4, 16) and count > 1:
            code = {3: "H", 4: "I", 16: "Q"}[kind]
            size = count * _SIZES[kind]
            if value + size <= len(data):
                lengths = struct.unpack_from(f"{order}{count}{code}", data, value)
                read += sum(min(length, len(data)) for length in lengths)
    if read > _MOST_READ * len(data):
        raise UnusableImage("damaged: its strips are longer than the file")


def _entries(data: bytes) -> Iterator[tuple[int, int, int, int, str]]:
    """Yield tag, type, count, value or offset, and byte order of each entry."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    place, number, entry = ("8xQ", "Q", "HHQQ") if big else ("4xI", "H", "HHII")
    try:
        (start,) = struct.unpack_from(order + place, data)
        (count,) = struct.unpack_from(order + number, data, start)
    except struct.error:
        return
    size, head = struct.calcsize(order + entry), struct.calcsize(order + number)
    for index in range(min(count, 2**16)):
        at = start + head + index * size
        if at + size > len(data):
            return
        tag, kind, many, value = struct.unpack_from(order + entry, data, at)
        if many == 1 and order == ">" and kind in (1, 3):  # short values lie at the left
            value >>= 8 * ((8 if big else 4) - _SIZES[kind])
        yield tag, kind, many, value, order


# White space and comments, then a number.
_NUMBER = re.compile(rb"(?:[ \t\n\v\f\r]|#[^\r\n]*)*([0-9]{1,10})")
_AFTER = re.compile(rb"#[^\r\n]*[\r\n]|[ \t\n\v\f\r]")
_PLAIN = (b"P1", b"P2", b"P3")


def binary(data: bytes, *, limit: int) -> bytes:
    """Return a binary file of the same image, without comments, its levels up to 255 or 65,535.

    ``limit`` is the most bytes of a plain file, which writes its levels as text.

    Raises:
        UnusableImage: it is damaged, or longer than ``limit``.
    """
    magic = data[:2]
    if magic == b"Pf":
        return data
    if magic in _PLAIN and len(data) > limit:
        raise UnusableImage(f"{len(data):,} bytes of levels as text (the limit is {limit:,})")
    numbers, at = [], 2
    for _ in range(2 if magic in (b"P1", b"P4") else 3):
        found = _NUMBER.match(data, at)
        if found is None:
            raise UnusableImage("damaged: no size in it")
        numbers.append(int(found[1]))
        at = found.end()
    after = _AFTER.match(data, at)
    if after is None:
        raise UnusableImage("truncated" if at >= len(data) else "damaged: no size in it")
    at = after.end()
    largest = numbers[2] if len(numbers) == 3 else 255
    body = data[at:]
    if magic in (b"P5", b"P6") and 0 < largest < 65536 and largest not in (255, 65535):
        body, numbers[2] = _stretched(body, largest, grey=magic == b"P5")
    elif magic == b"P6" and largest == 65535:
        body, numbers[2] = _stretched(body, largest, grey=False)
    return magic + b"\n" + b" ".join(b"%d" % number for number in numbers) + b"\n" + body


def _stretched(body: bytes, largest: int, *, grey: bool) -> tuple[bytes, int]:
    """Rescale levels up to ``largest`` to 255, or to 65,535 for deep grey ones."""
    deep = largest > 255
    levels = np.frombuffer(body, ">u2" if deep else "u1", count=len(body) // (1 + deep))
    white = 65535 if deep and grey else 255
    scaled = np.rint(np.minimum(levels, largest) / largest * white)  # as Pillow rounds
    return scaled.astype(">u2" if white > 255 else "u1").tobytes(), white

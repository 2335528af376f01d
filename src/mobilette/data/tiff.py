"""Whether a TIFF is what it seems, and costs no more than it is long."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mobilette.data.unusable import UnusableImage

# TIFF 6.0, section 2; BigTIFF has the last.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_SUBFILE, _BYTE_COUNTS, _TILE_BYTE_COUNTS = 254, 279, 325
_DNG = 50706
# Tags of which a value counts for each strip, tile or channel.
_LISTS = (258, 273, 279, 324, 325, 338, 339)
_REDUCED = 1
# Strips may share their bytes, but all of them reading all of the file takes forever.
_MOST_READ = 4


def check_tiff(data: bytes, *, most: int) -> None:
    """Check the first directory of a TIFF.

    Args:
        data: the file.
        most: strips or tiles that an image may have.

    Raises:
        UnusableImage: it has more, reads the file over and over, or is a camera's raw image,
            of which the first directory is a preview.
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
    """Yield tag, type, count, value or offset, and byte order of each entry that is there."""
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

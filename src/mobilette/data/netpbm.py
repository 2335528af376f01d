"""PBM, PGM and PPM with the largest values for which Pillow has a fast decoder."""

from __future__ import annotations

import re

import numpy as np

from mobilette.data.unusable import UnusableImage

# White space and comments, then a number.
_NUMBER = re.compile(rb"(?:[ \t\n\v\f\r]|#[^\r\n]*)*([0-9]{1,10})")
_AFTER = re.compile(rb"#[^\r\n]*[\r\n]|[ \t\n\v\f\r]")
_PLAIN = (b"P1", b"P2", b"P3")


def binary(data: bytes, *, limit: int) -> bytes:
    """Return a file with the same image, without comments, its levels up to 255 or 65,535.

    Args:
        data: the file.
        limit: bytes of a plain one, whose levels are written as text, at most.

    Raises:
        UnusableImage: it is damaged, or longer than that.
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
    """Return levels up to ``largest`` as levels up to 255, or 65,535 for deep grey ones."""
    deep = largest > 255
    levels = np.frombuffer(body, ">u2" if deep else "u1", count=len(body) // (1 + deep))
    white = 65535 if deep and grey else 255
    scaled = np.rint(np.minimum(levels, largest) / largest * white)  # as Pillow rounds
    return scaled.astype(">u2" if white > 255 else "u1").tobytes(), white

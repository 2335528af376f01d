"""`UnusableImage`: why a file is no image that can be used."""

from __future__ import annotations

import struct


class UnusableImage(Exception):
    """A file that is no usable image. The message is the reason, one short line, no path."""


# The first four are what a million damaged files made Pillow's plugins raise while loading; the
# others are what its ImageFile expects from the same plugins while opening, and what they assert.
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
    """Return what is wrong with an image over which Pillow raised one of `DAMAGED`."""
    text = str(error).partition("\n")[0]
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text[:80] or type(error).__name__}"

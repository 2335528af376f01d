"""Takes a protobuf message apart before anything is allocated for its content.

A parser allocates for every message of a file, and a file of two-byte messages needs 50 times its
size. Here the weights stay where they are, as views, and the rest is small or refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mobilette.errors import InputError

_MOST_FIELDS = 2**17  # ResNet-152 has 7,000
_MOST_REST = 4 * 2**20  # bytes; ResNet-152 has 60,000
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


@dataclass
class Splitter:
    """Splits messages of one file; limits how many fields, and bytes of the rest, there are."""

    fields_left: int = _MOST_FIELDS
    rest_left: int = _MOST_REST

    def split(
        self, message: memoryview, apart: Collection[int]
    ) -> tuple[bytes, list[tuple[int, memoryview]]]:
        """Return ``message`` without the fields numbered ``apart``, and those, in order.

        Raises:
            InputError: the message is damaged, a field set apart has no length, or there are too
                many fields.
        """
        rest = bytearray()
        taken: list[tuple[int, memoryview]] = []
        for number, kind, whole, content in self._fields(message):
            if number not in apart:
                self.rest_left -= len(whole)
                if self.rest_left < 0:
                    raise InputError(f"more than {_MOST_REST:,} bytes besides the weights")
                rest += whole
            elif kind == _LENGTH:
                taken.append((number, content))
            else:
                raise InputError(f"field {number} is not packed, as Caffe writes it")
        return bytes(rest), taken

    def _fields(self, message: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
        """Yield number, kind, the whole field and its content."""
        at = 0
        while at < len(message):
            self.fields_left -= 1
            if self.fields_left < 0:
                raise InputError(f"more than {_MOST_FIELDS:,} fields")
            tag, begin = _varint(message, at)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                end = _varint(message, begin)[1]
            elif kind == _LENGTH:
                length, begin = _varint(message, begin)
                end = begin + length
            elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
                end = begin + (8 if kind == _EIGHT_BYTES else 4)
            else:
                raise InputError("damaged, or not a .caffemodel: not a protobuf message")
            if end > len(message):
                raise InputError(
                    f"damaged: a field of {end - begin:,} bytes where {len(message) - begin:,} are "
                    "left"
                )
            yield number, kind, message[at:end], message[begin:end]
            at = end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number at ``at`` and the offset behind it."""
    value = 0
    for count, byte in enumerate(message[at : at + 10]):
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, at + count + 1
    raise InputError("damaged: ends within a number, or the number is too long")

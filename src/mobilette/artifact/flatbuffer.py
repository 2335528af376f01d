"""Tables of a flatbuffer, read without trust in any of its offsets."""

from __future__ import annotations

import struct

MOST = 100_000


class Table:
    """A table of a flatbuffer.

    Its methods raise ``struct.error`` or ``ValueError`` where an offset leads out of the buffer.

    Args:
        buffer: the whole flatbuffer.
        at: where the offset of the table stands, relative to that place.
    """

    def __init__(self, buffer: bytes, at: int) -> None:
        self.buffer = buffer
        self.start = at + self._unsigned(at)
        self.fields = self.start - self._number("<i", self.start)
        self.size = self._number("<H", self.fields)

    def tables(self, field: int) -> list[Table]:
        """Return the tables of a vector; none where the field is missing."""
        at = self._field(field)
        if at is None:
            return []
        vector = at + self._unsigned(at)
        count = self._unsigned(vector)
        if count > MOST:
            raise ValueError(f"a vector of {count} tables")
        return [Table(self.buffer, vector + 4 + 4 * index) for index in range(count)]

    def text(self, field: int) -> str:
        """Return a string; an empty one where the field is missing."""
        at = self._field(field)
        if at is None:
            return ""
        start = at + self._unsigned(at)
        end = start + 4 + self._unsigned(start)
        if end > len(self.buffer):
            raise ValueError("a string that does not end")
        return self.buffer[start + 4 : end].decode()

    def _field(self, field: int) -> int | None:
        position = 4 + 2 * field
        offset = self._number("<H", self.fields + position) if position < self.size else 0
        return self.start + offset if offset else None

    def _unsigned(self, at: int) -> int:
        return self._number("<I", at)

    def _number(self, kind: str, at: int) -> int:
        if at < 0:  # struct would count from the end
            raise ValueError("an offset before the buffer")
        number: int = struct.unpack_from(kind, self.buffer, at)[0]
        return number

"""Reads untrusted flatbuffers: every offset is checked before it is followed.

The `flatbuffers` package decodes, but trusts all offsets and lengths, as does generated code.
Format: https://flatbuffers.dev/internals (tables, vtables, vectors; offsets little-endian).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from flatbuffers import encode, number_types, table
from numpy.typing import NDArray

from mobilette.errors import InputError

Number = Literal["Bool", "Int8", "Uint8", "Int32", "Uint32", "Int64", "Uint64", "Float32"]
_OFFSET = number_types.UOffsetTFlags
_LONGEST_TEXT = 1_000  # bytes; converters join the names of all fused layers


class Table:
    """One table; slots are vtable offsets (4, 6, 8, ...).

    An absent field is returned as ``None``, an empty vector or ``default``. Methods raise
    `InputError` for anything outside the file.
    """

    def __init__(self, content: bytes, place: int) -> None:
        self._content = content
        self._place = place
        vtable = place - int(_number(content, place, number_types.SOffsetTFlags))
        slots = int(_number(content, vtable, number_types.VOffsetTFlags))
        self._size = int(_number(content, vtable + 2, number_types.VOffsetTFlags))
        if slots < 4 or slots % 2 or vtable + slots > len(content):
            raise _damaged(vtable)
        if place + self._size > len(content):
            raise _damaged(place)
        self._slots = table.Table(content, place)

    def number(self, slot: int, kind: Number, default: float = 0) -> int | float:
        """Return the number in ``slot``."""
        flags = getattr(number_types, f"{kind}Flags")
        place = self._find(slot, flags.bytewidth)
        return default if place is None else _number(self._content, place, flags)

    def integer(self, slot: int, kind: Number, default: int = 0) -> int:
        """Return the integer in ``slot``."""
        return int(self.number(slot, kind, default))

    def table(self, slot: int) -> Table | None:
        """Return the table that ``slot`` points to."""
        place = self._target(slot)
        return None if place is None else Table(self._content, place)

    def vector(self, slot: int, kind: Number) -> NDArray[Any]:
        """Return the numbers that ``slot`` points to, as a read-only view of the file."""
        flags = getattr(number_types, f"{kind}Flags")
        dtype = number_types.to_numpy_type(flags)
        found = self._vector(slot, flags.bytewidth)
        if found is None:
            return np.empty(0, dtype)
        place, count = found
        vector: NDArray[Any] = encode.GetVectorAsNumpy(dtype, self._content, count, place)
        return vector

    def tables(self, slot: int, *, most: int) -> list[Table]:
        """Return the tables listed in ``slot``, at most ``most``."""
        found = self._vector(slot, _OFFSET.bytewidth)
        if found is None:
            return []
        place, count = found
        if count > most:
            raise InputError(f"a list has {count:,} entries; at most {most:,} are supported")
        places = [place + _OFFSET.bytewidth * index for index in range(count)]
        return [Table(self._content, _follow(self._content, entry)) for entry in places]

    def text(self, slot: int) -> str:
        """Return the beginning of the text that ``slot`` points to, in printable characters."""
        found = self._vector(slot, 1)
        if found is None:
            return ""
        place, count = found
        beginning = self._content[place : place + min(count, _LONGEST_TEXT)]
        letters = beginning.decode(errors="replace")
        return "".join(letter if letter.isprintable() else "?" for letter in letters)

    def has(self, slot: int) -> bool:
        """Return whether ``slot`` holds anything."""
        return self._find(slot, 1) is not None

    def _find(self, slot: int, width: int) -> int | None:
        offset = int(self._slots.Offset(slot))
        if offset == 0:
            return None
        if offset + width > self._size:
            raise _damaged(self._place)
        return self._place + offset

    def _target(self, slot: int) -> int | None:
        place = self._find(slot, _OFFSET.bytewidth)
        return None if place is None else _follow(self._content, place)

    def _vector(self, slot: int, width: int) -> tuple[int, int] | None:
        place = self._target(slot)
        if place is None:
            return None
        count = int(_number(self._content, place, _OFFSET))
        start = place + _OFFSET.bytewidth
        if start + count * width > len(self._content):
            raise _damaged(place)
        return start, count


def root(content: bytes, *, identifier: bytes) -> Table:
    """Return the root table of a file with this ``identifier``."""
    if content[4:8] != identifier:
        raise InputError(f"not a file with the identifier {identifier.decode()}")
    return Table(content, _follow(content, 0))


def _number(content: bytes, place: int, flags: Any) -> int | float:
    if not 0 <= place <= len(content) - flags.bytewidth:
        raise _damaged(place)
    number: int | float = encode.Get(flags.packer_type, content, place)
    return number


def _follow(content: bytes, place: int) -> int:
    return place + int(_number(content, place, _OFFSET))


def _damaged(place: int) -> InputError:
    return InputError(f"damaged: byte {place:,} points outside the file")

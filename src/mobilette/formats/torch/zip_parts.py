"""The list of parts at the end of a zip archive, which Python reads whole before it says how long.

The format: PKWARE's APPNOTE, 4.3.14 (zip64) and 4.3.16.
"""

from __future__ import annotations

import os
from typing import BinaryIO

LARGEST_LIST = 8 * 2**20
# The records that end an archive: their mark, where in them the list's size stands, its bytes.
ENDS = ((b"PK\x05\x06", 12, 4), (b"PK\x06\x06", 40, 8))
# A comment of 64 KiB can stand behind them.
TAIL = 2**17


def check_list_of_parts(file: BinaryIO) -> None:
    """Raise `ValueError` if a zip archive claims a list of parts that no model has."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    for mark, place, width in ENDS:
        found = tail.find(mark)
        while found >= 0:
            claimed = int.from_bytes(tail[found + place : found + place + width], "little")
            if LARGEST_LIST < claimed <= size:
                raise ValueError(f"an archive whose list of parts has {claimed:,} bytes")
            found = tail.find(mark, found + 1)
    file.seek(0)

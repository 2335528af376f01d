"""Index uncompressed tar files without unpacking them."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from mobilette.data.decoding import check_size
from mobilette.data.formats import UnusableImage
from mobilette.errors import InputError

ENDS_MID_FILE = "shard ends mid-file"
_LONGEST_NAME = 64 * 1024
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True)
class TarMember:
    """``size`` bytes from ``offset`` on in an uncompressed tar file."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the member's bytes.

        Raises:
            UnusableImage: it is too large or unreadable, or the tar file has become shorter.
        """
        check_size(self.size)
        try:
            with self.path.open("rb", buffering=0) as file:
                # Before the read, which would allocate the memory first.
                if os.fstat(file.fileno()).st_size < self.offset + self.size:
                    raise UnusableImage(ENDS_MID_FILE)
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise UnusableImage(f"cannot be read: {error.strerror or error}") from error
        if len(content) < self.size:
            raise UnusableImage(ENDS_MID_FILE)
        return content


@dataclass(frozen=True)
class Entry:
    """A regular file in a tar file: its name and the place of its bytes.

    ``whole`` is false where the tar file ends in the middle of it.
    """

    name: str
    offset: int
    size: int
    whole: bool = True


class _Headers:
    """A tar file that lets `tarfile` read only headers and names of a sensible length."""

    def __init__(self, file: BinaryIO, where: Path) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._file, self._where = file, where

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_NAME + tarfile.BLOCKSIZE:
            raise InputError(
                f"{self._where}: {size:,} bytes of names before byte {self.tell():,}, "
                f"more than the {_LONGEST_NAME:,} allowed"
            )
        return self._file.read(size)


def read_entries(file: BinaryIO, *, where: Path) -> tuple[list[Entry], bool]:
    """List the regular files of an uncompressed tar file from its headers; errors name ``where``.

    Returns:
        The files, and whether the tar file has its end mark; if not, the last file may be cut off.

    Raises:
        InputError: a header is damaged, or it is not an uncompressed tar file.
    """
    length = os.fstat(file.fileno()).st_size
    entries: list[Entry] = []
    end = 0
    try:
        headers = cast("IO[bytes]", _Headers(file, where))
        with tarfile.TarFile(fileobj=headers, encoding="utf-8") as archive:
            while (member := archive.next()) is not None:
                if member.size < 0 or member.issparse() or archive.offset <= end:
                    what = "sparse files" if member.issparse() else "a wrong size"
                    raise InputError(
                        f"{where}: {what} at byte {end:,}; write it with 'tar --format=pax'"
                    )
                end = archive.offset
                if member.isreg():
                    whole = member.offset_data + member.size <= length
                    entries.append(Entry(member.name, member.offset_data, member.size, whole))
                archive.members.clear()  # type: ignore[attr-defined]  # they are large
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        if end and (end >= length or file.tell() >= length):  # the header of a name, cut
            return entries, False
        raise _no_header(file, end, where) from error
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if end + tarfile.BLOCKSIZE > length:
        return entries, False
    if block.strip(b"\0"):
        raise _no_header(file, end, where)
    return entries, True


def _no_header(file: BinaryIO, position: int, where: Path) -> InputError:
    file.seek(0)
    if position == 0 and file.read(6).startswith(_COMPRESSED):
        return InputError(
            f"{where}: compressed; images are read in place, so unpack it to a plain .tar"
        )
    return InputError(f"{where}: no tar header at byte {position:,}; damaged, or not a tar file")

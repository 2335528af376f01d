"""Uncompressed tar files: what lies where in them, found without reading what they hold.

The headers are those of POSIX.1-2001 ("pax"), ustar and GNU tar. Nothing is unpacked.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mobilette.data.decoding import check_size
from mobilette.data.formats import UnusableImage
from mobilette.errors import InputError

ENDS_MID_FILE = "shard ends mid-file"
_BLOCK = 512
_LONGEST_NAME = 64 * 1024
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# A header of these kinds is followed by the next header, whatever size it claims.
_EMPTY = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)


@dataclass(frozen=True)
class TarMember:
    """A file inside an uncompressed tar file: ``size`` bytes from ``offset`` on."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the member's bytes; the tar file is opened for that alone.

        Raises:
            UnusableImage: it is too large, the tar file is shorter than it was, or unreadable.
        """
        check_size(self.size)
        try:
            with self.path.open("rb", buffering=0) as file:
                # Before the read, which takes the memory first.
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
    """A regular file of a tar file: its name there, and where its bytes are.

    ``whole`` is false for the one in whose middle the tar file ends.
    """

    name: str
    offset: int
    size: int
    whole: bool = True


def read_entries(file: BinaryIO, *, where: Path) -> tuple[list[Entry], bool]:
    """List the regular files of an uncompressed tar file, reading its headers only.

    Args:
        file: the tar file.
        where: what errors name.

    Returns:
        The files, and whether the tar file has its end mark; without it, the last of the files may
        not be whole.

    Raises:
        InputError: a header is damaged, or it is no uncompressed tar file.
    """
    length = os.fstat(file.fileno()).st_size
    entries: list[Entry] = []
    position, name, known_size = 0, None, None
    while position + _BLOCK <= length:
        file.seek(position)
        block = file.read(_BLOCK)
        if not block.strip(b"\0"):
            return entries, True
        header = _header(block, position, where)
        start = position + _BLOCK
        kind = header.type
        size = 0 if kind in _EMPTY else header.size
        if kind in _REGULAR and known_size is not None:
            size = known_size
        whole = start + size <= length
        position = start + -(-size // _BLOCK) * _BLOCK
        if whole and kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            found = _extension(file.read(_checked(size, position, where)), kind)
            name, known_size = found[0] or name, found[1] if found[1] is not None else known_size
            continue
        if kind in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            continue  # the next one's link, or what is meant for all
        if kind in _REGULAR:
            entries.append(Entry(name or header.name, start, size, whole))
        name, known_size = None, None
    if position == 0:
        file.seek(0)
        raise _no_header(file.read(_BLOCK), position, where)
    return entries, False


def _header(block: bytes, position: int, where: Path) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise _no_header(block, position, where) from error
    if header.size < 0 or header.type == tarfile.GNUTYPE_SPARSE:
        what = "sparse files" if header.size >= 0 else "a negative size"
        raise InputError(f"{where}: {what} at byte {position:,}; write it with 'tar --format=pax'")
    return header


def _no_header(block: bytes, position: int, where: Path) -> InputError:
    if position == 0 and block.startswith(
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
    ):
        return InputError(
            f"{where}: compressed; images are read in place, so unpack it to a plain .tar"
        )
    return InputError(f"{where}: no tar header at byte {position:,}; damaged, or no tar file")


def _checked(size: int, position: int, where: Path) -> int:
    if size > _LONGEST_NAME:
        raise InputError(
            f"{where}: {size:,} bytes of names before byte {position:,}, "
            f"more than the {_LONGEST_NAME:,} expected at most"
        )
    return size


def _extension(body: bytes, kind: bytes) -> tuple[str | None, int | None]:
    """Return the name and the size that an extended header gives to the next one, if any."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return _text(body.partition(b"\0")[0]), None
    found: dict[bytes, bytes] = {}
    while body:  # "LENGTH KEY=VALUE\n", where the length counts all of it
        digits, _, _ = body[:8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        if length <= len(digits) + 1:
            break
        key, _, value = body[len(digits) + 1 : length - 1].partition(b"=")
        found[key] = value
        body = body[length:]
    size = found.get(b"size", b"")
    name = _text(found[b"path"]) if found.get(b"path") else None
    return name, int(size) if size.isdigit() and len(size) < 20 else None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")

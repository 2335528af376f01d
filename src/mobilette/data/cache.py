"""Decoded images on disk, so that no image is decoded twice at the same size.

Each set has a folder under ``pictures`` in `mobilette.files.cache_root`, named by everything its
pixels depend on (`cache_key`): ``pixels.u8``, uint8 (N, C, H, W); ``records.u8``, a 40-byte record
per row; ``cache.json``, a description. Both arrays are sparse files, filled row by row.

A row counts only with the checksum in its record, written after the row and compared when a process
first reads it. A killed process, a power cut or a damaged disk therefore only costs decoding that
row again. Processes that fill the same folder at once write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from mobilette.arch.scale import Resolution
from mobilette.data.images import Stamp
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError
from mobilette.files import cache_root, in_words, read_record, remove_unfinished, write_json
from mobilette.folders import scratch, sweep
from mobilette.limits import AMOUNT, Range
from mobilette.records import check_ranges

SCHEMA_VERSION = 1
PIXELS, RECORDS, ABOUT = "pixels.u8", "records.u8", "cache.json"
# SHA-256 of the image, CRC-32 of the row, CRC-32 of these two.
_RECORD = struct.Struct("<32sII")
_NAME = re.compile(r"\.?[0-9a-f]{64}(\.[a-z0-9_]+)?")  # with a dot: being made or removed


@dataclass(frozen=True, kw_only=True)
class CacheNote:
    """The content of ``cache.json``: for people, and to check the files beside it.

    Attributes:
        source: the set as the user named it.
        shape: of the pixels, (N, C, H, W).
        used: when a run last opened it, in seconds since 1970.
        schema: version of the folder's layout.
    """

    source: str
    shape: Annotated[tuple[int, ...], AMOUNT]
    used: Annotated[float, Range(0.0, 1e12)]
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)


class ImageCache:
    """The decoded images of one set, open for reading and writing by row.

    Another process opens it with ``ImageCache(folder, shape)``. When rows can no longer be written
    (the disk is full), ``fault`` says why; nothing is raised and written rows can still be read.

    Raises:
        OSError: a file is missing or has the wrong size.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.folder, self.shape = folder, shape
        self.fault: str | None = None
        count, row = shape[0], shape[1:]
        self._row_bytes = int(np.prod(row))
        for name, size in ((PIXELS, count * self._row_bytes), (RECORDS, count * _RECORD.size)):
            if (folder / name).stat().st_size != size:
                raise OSError(f"{folder / name} has not {size:,} bytes")
        self._pixels = np.memmap(folder / PIXELS, np.uint8, "r", shape=shape)
        self._records = np.memmap(folder / RECORDS, np.uint8, "r", shape=(count, _RECORD.size))
        self._checked = np.zeros(count, np.bool_)
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._one_at_a_time = threading.Lock()

    def digest(self, row: int) -> bytes | None:
        """Return the SHA-256 recorded for a row; ``None`` if the row was never written."""
        record: bytes = self._records[row].tobytes()
        return record[:32] if _is_whole(record) else None

    def read(self, row: int, out: NDArray[np.uint8]) -> bytes | None:
        """Copy a row into ``out``, (C, H, W); return its SHA-256, ``None`` if it is missing."""
        record: bytes = self._records[row].tobytes()
        if not _is_whole(record):
            return None
        out[...] = self._pixels[row]
        if not self._checked[row]:
            if _checksum(out.data) != _RECORD.unpack(record)[1]:
                return None
            self._checked[row] = True
        return record[:32]

    def write(self, row: int, pixels: NDArray[np.uint8], digest: bytes) -> None:
        """Store a row, (C, H, W), and its image's SHA-256; on failure set ``fault``."""
        if self.fault is not None:
            return
        # Not through the memory map, which would kill the process on a full disk.
        pixels = np.ascontiguousarray(pixels)
        noted = digest + struct.pack("<I", _checksum(pixels.data))
        record = noted + struct.pack("<I", _checksum(noted))
        try:
            with self._one_at_a_time:
                if self._files is None:
                    self._files = (
                        (self.folder / PIXELS).open("r+b", buffering=0),
                        (self.folder / RECORDS).open("r+b", buffering=0),
                    )
                rows, records = self._files
                _write_at(rows, row * self._row_bytes, pixels.data.cast("B"))
                _write_at(records, row * _RECORD.size, memoryview(record))
        except OSError as error:
            self.fault = in_words(error)

    def close(self) -> None:
        """Close the files that rows are written to; a later `write` reopens them."""
        for file in self._files or ():
            file.close()
        self._files = None


def images_cache(remark: Callable[[str], None] | None = None) -> Path | None:
    """Return the folder for decoded images, which need not exist.

    ``None``, with a remark, if there is no cache folder.
    """
    try:
        return cache_root() / "pictures"
    except InputError as error:
        if remark is not None:
            remark(f"decoded images are not cached: {error}")
        return None


def cache_key(
    stamps: Sequence[Stamp],
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    reduced: Sequence[bool],
    digest: str,
) -> str:
    """Return the name of a set's folder: SHA-256 of everything the stored rows depend on.

    ``stamps`` are those of every image, in order; only the geometry of ``preprocess`` counts;
    ``reduced`` says which images may be decoded at reduced scale, ``digest`` what the stored
    SHA-256 identify.
    """
    geometry = {
        "schema": SCHEMA_VERSION,
        "pillow": PIL.__version__,  # another libjpeg may round differently
        "resolution": resolution,
        "channels": preprocess.channels,
        "resize": preprocess.resize,
        "crop_fraction": preprocess.crop_fraction,
        "interpolation": preprocess.interpolation,
        "fill": preprocess.fill() if preprocess.resize == "pad" else None,
        "digest": digest,
    }
    key = hashlib.sha256(json.dumps(geometry).encode())
    for item, less in zip(stamps, reduced, strict=True):
        line = f"{item.path}\0{item.offset}\0{item.size}\0{item.mtime_ns}\0{int(less)}\n"
        key.update(line.encode(errors="surrogateescape"))
    return key.hexdigest()


def open_cache(root: Path, key: str, *, shape: tuple[int, ...], source: str) -> ImageCache | str:
    """Open or create the set's folder under ``root``; return the cache or why there is none.

    A damaged folder, or one of another version, is replaced.
    """
    folder = root / key
    try:
        root.mkdir(parents=True, exist_ok=True)
        if found := _open(folder, shape):
            return found
        size = int(np.prod(shape))
        free = shutil.disk_usage(root).free
        if free < 2 * size:
            return f"{size / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free in {root}"
        _make(folder, CacheNote(source=source, shape=shape, used=time.time()))
        return ImageCache(folder, shape)
    except OSError as error:
        return f"{error.filename or root}: {in_words(error)}"
    except InputError as error:
        return str(error)


def cache_size(root: Path) -> tuple[int, int]:
    """Return how many sets are cached under ``root``, and their bytes on disk."""
    folders = list(_folders(root))
    return len(folders), sum(_bytes(folder) for folder in folders)


def clean_cache(root: Path) -> tuple[int, int]:
    """Remove all cached sets under ``root``, nothing else; return their number and bytes."""
    count, freed = 0, 0
    with suppress(OSError):
        sweep(root)
    for folder in list(_folders(root)):
        size = _bytes(folder)
        remove_unfinished(folder)
        for name in (PIXELS, RECORDS, ABOUT):
            with suppress(OSError):
                (folder / name).unlink()
        with suppress(OSError):  # not part of a cache, or open
            folder.rmdir()
            count, freed = count + 1, freed + size
    with suppress(OSError):
        root.rmdir()
    return count, freed


def _open(folder: Path, shape: tuple[int, ...]) -> ImageCache | None:
    if not folder.exists():
        return None
    try:
        note = read_record(folder / ABOUT, CacheNote)
        cache = ImageCache(folder, shape)
    except (InputError, OSError):
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        folder.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)
        return None
    with suppress(InputError):  # failing to record the last use must not stop a run
        write_json(folder / ABOUT, asdict(replace(note, used=time.time())))
    return cache


def _make(folder: Path, note: CacheNote) -> None:
    count, *row = note.shape
    with scratch(folder.parent) as above:
        temporary = above / folder.name
        temporary.mkdir()
        for name, size in ((PIXELS, count * int(np.prod(row))), (RECORDS, count * _RECORD.size)):
            with (temporary / name).open("wb") as file:
                file.truncate(size)
        (temporary / ABOUT).write_text(json.dumps(asdict(note)), encoding="utf-8")
        try:
            temporary.replace(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise


def _folders(root: Path) -> Iterable[Path]:
    # MOBILETTE_CACHE may name a folder with other content.
    with suppress(OSError):
        yield from (
            path for path in sorted(root.iterdir()) if _NAME.fullmatch(path.name) and path.is_dir()
        )


def _bytes(folder: Path) -> int:
    total = 0
    for name in (PIXELS, RECORDS, ABOUT):
        with suppress(OSError):
            status = (folder / name).stat()
            blocks = getattr(status, "st_blocks", None)  # not on Windows; holes take none
            total += status.st_size if blocks is None else 512 * blocks
    return total


def _write_at(file: BinaryIO, offset: int, content: memoryview) -> None:
    file.seek(offset, os.SEEK_SET)
    while content:
        written = file.write(content)
        content = content[written:]


def _is_whole(record: bytes) -> bool:
    return struct.pack("<I", _checksum(record[:-4])) == record[-4:]


def _checksum(content: bytes | memoryview) -> int:
    return zlib.crc32(content) or 1  # holes read as zeros, so no written row has checksum 0

"""Reads PyTorch's files, the zip archive and the older pickle, without executing them.

`mobilette.formats.torch.pickles` reads the pickle; of its calls, only those that make tensors have
a meaning. Values are read on demand, each storage once, so that an optimiser's state, say, costs
nothing.

The formats are those of ``torch/serialization.py``.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from mobilette.errors import InputError
from mobilette.formats.torch.other_files import SAVE_STATE_DICT, name_archive
from mobilette.formats.torch.pickles import read_pickle
from mobilette.formats.torch.stored_tensors import Storage, StoredTensor, find_storage, rebuild

ZIP = b"PK\x03\x04"
# The pickled magic number of `torch.serialization`.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LARGEST_PICKLE = 64 * 2**20
BIG_ENDIAN = "written on a big-endian machine, which is not supported"
# No trained weights name these. They would not be run either way, but the user should know.
TAKING_OVER = (
    *("os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "runpy", "pty", "importlib"),
    *("ctypes", "code", "commands", "webbrowser", "pip"),
)
RUNNING = ("eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__")
# Raised by Python, zipfile and PyTorch for damaged files; MemoryError for impossible sizes.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchFile:
    """A file's content, and access to its values.

    Attributes:
        content: tables, lists and values, including `StoredTensor` and `Inert`.
        names: the classes and functions it names.
        read: returns the bytes under a storage's key.
    """

    content: object
    names: tuple[str, ...]
    read: Callable[[str], bytes]

    def load(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Return the values of tensors, each in separate memory."""
        users: defaultdict[str, list[str]] = defaultdict(list)
        for name, tensor in tensors.items():
            users[tensor.storage.key].append(name)
        loaded: dict[str, Tensor] = {}
        for key, names in users.items():
            content = bytearray(self.read(key))
            loaded |= {name: tensors[name].load(content) for name in names}
        return {name: loaded[name] for name in tensors}


@contextmanager
def open_torch_file(path: Path, size: int) -> Iterator[TorchFile]:
    """Yield the content of a file of ``size`` bytes that begins with `ZIP` or `LEGACY`.

    The archive's checksums are verified as its parts are read. The older format has none: a change
    within a tensor's values goes unnoticed.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(ZIP)) == ZIP:
                check_list_of_parts(file)
                with zipfile.ZipFile(file) as archive:
                    yield _read_zip(path, archive, size)
            else:
                yield _read_legacy(path, file, size)
    except InputError:
        raise
    except DAMAGED as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: damaged or no file of weights ({first[:160]})") from error


def _read_zip(path: Path, archive: zipfile.ZipFile, size: int) -> TorchFile:
    parts = {part.filename: part for part in archive.infolist()}
    main = next((name for name in parts if name.endswith("/data.pkl")), None)
    other = name_archive(list(parts))
    if other or main is None:
        raise InputError(f"{path}: {other or 'a zip archive that torch.save has not written'}")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts.values()):
        raise InputError(
            f"{path}: a zip archive with compressed parts; torch.save does not compress"
        )
    if sum(part.file_size for part in parts.values()) > size:
        raise InputError(f"{path}: damaged (its parts claim to be larger than the file)")
    if parts[main].file_size > LARGEST_PICKLE:
        raise ValueError(f"a pickle of {parts[main].file_size:,} bytes")
    root = main.removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in parts and archive.read(order) != b"little":
        raise InputError(f"{path}: {BIG_ENDIAN}")

    def find(key: object) -> object:
        storage = find_storage(key)
        if isinstance(storage, Storage):
            stored = parts[f"{root}data/{storage.key}"].file_size
            if storage.count * storage.dtype.itemsize > stored:
                raise ValueError(f"storage {storage.key!r:.40} is cut short")
        return storage

    names: dict[str, None] = {}
    stream = io.BytesIO(archive.read(main))
    content = read_pickle(stream, rebuild=rebuild, find=find, names=names)
    return TorchFile(
        content=content,
        names=_checked(path, names),
        read=lambda key: archive.read(f"{root}data/{key}"),
    )


def _read_legacy(path: Path, file: BinaryIO, size: int) -> TorchFile:
    """Read magic number, version, machine sizes, content and storage keys."""
    file.seek(0)
    stream = io.BytesIO(file.read(LARGEST_PICKLE))
    names: dict[str, None] = {}
    stored: dict[str, tuple[int, int]] = {}  # number of values, bytes per value

    def find(key: object) -> object:
        storage = find_storage(key)
        if isinstance(storage, Storage) and isinstance(key, tuple):
            kind = (key[4], storage.dtype.itemsize)
            if stored.setdefault(storage.key, kind) != kind:
                raise ValueError(f"storage {storage.key!r:.40} is of two kinds")
        return storage

    def read() -> object:
        return read_pickle(stream, rebuild=rebuild, find=find, names=names)

    _, _, machine, content, keys = read(), read(), read(), read(), read()
    checked = _checked(path, names)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise InputError(f"{path}: {BIG_ENDIAN}")
    if not isinstance(keys, list):
        raise TypeError("no list of storages")
    places: dict[str, tuple[int, int]] = {}
    position = stream.tell()
    for key in keys:
        if not isinstance(key, str) or key in places:
            raise ValueError("a tensor is stored twice")
        file.seek(position)
        count, each = stored[key]
        if int.from_bytes(file.read(8), "little", signed=True) != count:
            raise ValueError(f"storage {key!r:.40} has another number of values")
        places[key] = (position + 8, count * each)
        position += 8 + count * each
    if position != size or len(places) < len(stored):
        what = "cut short" if position > size else "bytes are left over at its end"
        raise InputError(f"{path}: damaged ({what})")

    def read_values(key: str) -> bytes:
        file.seek(places[key][0])
        return file.read(places[key][1])

    return TorchFile(content=content, names=checked, read=read_values)


def _checked(path: Path, names: Mapping[str, None]) -> tuple[str, ...]:
    """Return the names, unless one could take over the machine."""
    for name in names:
        module, _, function = name.rpartition(".")
        builtin = module in ("builtins", "__builtin__") and function in RUNNING
        if builtin or module.split(".")[0] in TAKING_OVER:
            raise InputError(
                f"{path}: names {name!r:.80}, which could run code and has no place in a file of "
                f"weights; save the state dict alone: {SAVE_STATE_DICT}"
            )
    return tuple(names)


LARGEST_LIST = 8 * 2**20
# The records that end an archive: signature, offset and width of the list's size.
ENDS = ((b"PK\x05\x06", 12, 4), (b"PK\x06\x06", 40, 8))
# A comment of up to 64 KiB may follow them.
TAIL = 2**17


def check_list_of_parts(file: BinaryIO) -> None:
    """Raise `ValueError` if a zip archive claims an implausibly long list of parts."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    for mark, place, width in ENDS:
        found = tail.find(mark)
        while found >= 0:
            claimed = int.from_bytes(tail[found + place : found + place + width], "little")
            if LARGEST_LIST < claimed <= size:
                raise ValueError(f"a zip archive whose directory claims {claimed:,} bytes")
            found = tail.find(mark, found + 1)
    file.seek(0)

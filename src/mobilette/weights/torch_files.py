"""PyTorch's own files, the zip archive and the older pickle, read without running what they say.

Both are pickles. `torch.load(weights_only=True)` refuses code; what it does not check is checked
here first: which functions the pickle names, the checksums of the archive, and that nothing in it
is compressed, so that no file unpacks to more than itself.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from mobilette.errors import InputError
from mobilette.files import read_bytes

ZIP = b"PK\x03\x04"
# The magic number of `torch.serialization`, pickled.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LARGEST_PICKLE = 8 * 2**20
# In the older format: magic number, version, the machine's sizes, content, names of the storages.
LEGACY_PICKLES = 5
DTYPES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
SAFE_GLOBALS = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch.nn.parameter Parameter",
    *(f"torch {name}Storage" for name in DTYPES),
}
# What Python and PyTorch raise for bytes that are no such file; memory is what they claim to need.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)


def load_zip(path: Path, size: int) -> object:
    """Return the content of an archive of ``size`` bytes, its tensors mapped from the file.

    Raises:
        InputError: it names code, fails a checksum, or is no such archive.
    """
    if path.name.endswith(".safetensors"):  # torch.load goes by the name
        raise InputError(f"{path}: written by torch.save, not safetensors; rename it to .pth")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_records(path, archive, size)
            for pickled in (x for x in archive.namelist() if x.endswith("/data.pkl")):
                _check_pickles(path, io.BytesIO(archive.read(pickled)), 1)
        return _load(path)
    except DAMAGED as error:
        raise _explained(path, error) from error


def load_legacy(path: Path) -> object:
    """Return the content of a file in the format before PyTorch 1.6.

    The format has no checksums: a change within a tensor's values goes unnoticed.

    Raises:
        InputError: it names code, is cut short, or is no such file.
    """
    content = io.BytesIO(read_bytes(path))
    try:
        _check_pickles(path, content, LEGACY_PICKLES)
        content.seek(0)
        loaded = _load(content)
    except DAMAGED as error:
        raise _explained(path, error) from error
    if content.read(1):
        raise InputError(f"{path}: damaged (bytes are left over at its end)")
    return loaded


def _load(source: Path | BinaryIO) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the age of the format
        # A map of the file ends where the file ends, whatever size the pickle gives a tensor.
        return torch.load(
            source, map_location="cpu", weights_only=True, mmap=isinstance(source, Path)
        )


def _check_records(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise InputError(f"{path}: a zip archive with compressed parts; torch.save writes none")
    if sum(record.file_size for record in records) > size:
        raise InputError(f"{path}: damaged (its parts claim to be larger than the file)")
    broken = archive.testzip()
    if broken is not None:
        raise InputError(f"{path}: damaged (the checksum of {broken!r} does not match)")


def _check_pickles(path: Path, stream: BinaryIO, count: int) -> None:
    """Raise `InputError` if one of the next ``count`` pickles is huge or names other functions."""
    limited = io.BytesIO(stream.read(LARGEST_PICKLE))
    names: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of text that is damaged
        for _ in range(count):
            names.clear()
            for opcode, argument, _ in pickletools.genops(limited):
                if opcode.name == "GLOBAL" and argument not in SAFE_GLOBALS:
                    what = str(argument).replace(" ", ".")
                    raise InputError(
                        f"{path}: names {what!r}, which a file of weights has no use for and which "
                        "could run code; save the state dict alone: "
                        "torch.save(model.state_dict(), ...)"
                    )
                if isinstance(argument, str):
                    names.append(argument)
    if count == LEGACY_PICKLES and len(names) != len(set(names)):
        raise InputError(f"{path}: damaged (a tensor's values stand in it twice)")


def _explained(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(f"{path}: damaged or no file of weights ({first[:160]})")

"""Golden vectors: a few inputs and the checkpoint's answers to them."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.scale import Resolution, size_of
from mobilette.errors import InputError, shown
from mobilette.files import read_bytes

IMAGES = 8
MOST_IMAGES = 64
EXACT, FEATURES = "exact", "features"
EXPECTED = "uint8 inputs (N, C, H, W) and float32 logits are expected"
ENCRYPTED = 1  # flag bit of a zip entry
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The header that numpy writes, for the dtypes used here.
_HEADER = re.compile(
    rb"\{'descr': '([|<][uif][14])', 'fortran_order': False, 'shape': \(([0-9, ]{1,80})\), \}\s*"
)
# What zipfile raises for damaged archives.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
)
LARGEST = 512 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """Inputs and the checkpoint's answers to them.

    Attributes:
        inputs: uint8 (N, C, H, W).
        logits: float32 (N, classes).
        exact: int8 (N, classes), raw answers of LiteRT's reference kernels, where a model must
            match them to the bit.
        features: float32 (N, D), where the model gives them.
    """

    inputs: NDArray[np.uint8]
    logits: NDArray[np.float32]
    exact: NDArray[np.int8] | None = None
    features: NDArray[np.float32] | None = None

    def to_bytes(self) -> bytes:
        """Return the content of ``golden.npz``."""
        buffer = io.BytesIO()
        arrays: dict[str, NDArray[Any]] = {"inputs": self.inputs, "logits": self.logits}
        if self.exact is not None:
            arrays[EXACT] = self.exact
        if self.features is not None:
            arrays[FEATURES] = self.features
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()


def golden_inputs(channels: int, resolution: Resolution) -> NDArray[np.uint8]:
    """Return the same images every time, uint8 (8, channels, height, width).

    Coloured blobs that differ by channel and place, so that a wrong mean, swapped colours or a
    transposed axis change the answer.
    """
    generator = np.random.default_rng(20_26)
    height, width = size_of(resolution)
    rows, columns = np.mgrid[0:height, 0:width]
    rows, columns = rows / height, columns / width
    images = np.empty((IMAGES, channels, height, width), np.uint8)
    for image in images:
        for plane in image:
            y, x = generator.uniform(0, 1, 2)
            spread, low, high = generator.uniform((0.05, 0, 96), (0.6, 96, 255))
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / spread)
            noise = generator.normal(0, 12, blob.shape)
            plane[:] = np.clip(low + (high - low) * blob + noise, 0, 255)
    return images


def read_golden(path: Path) -> Golden:
    """Return the golden vectors in ``path``, executing nothing; `InputError` if damaged."""
    content = read_bytes(path, limit=LARGEST)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise InputError(f"unpacks to more than {LARGEST:,} bytes")
            inputs = _read_array(archive, "inputs", np.uint8, dimensions=4)
            logits = _read_array(archive, "logits", np.float32, dimensions=2)
            exact, features = (
                _read_array(archive, name, dtype, dimensions=2)
                if f"{name}.npy" in archive.namelist()
                else None
                for name, dtype in ((EXACT, np.int8), (FEATURES, np.float32))
            )
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise InputError(f"{path}: {error}") from None
        raise InputError(f"{path}: not a complete file of golden vectors") from error
    if not 1 <= len(inputs) <= MOST_IMAGES:
        raise InputError(f"{path}: {len(inputs):,} inputs; 1 to {MOST_IMAGES} are expected")
    if len(logits) != len(inputs) or (exact is not None and exact.shape != logits.shape):
        raise InputError(f"{path}: {len(inputs)} inputs, but {len(logits)} rows of logits")
    if features is not None and len(features) != len(inputs):
        raise InputError(f"{path}: {len(inputs)} inputs, but {len(features)} rows of features")
    for name, values in (("logits", logits), (FEATURES, features)):
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{path}: some {name} are not finite")
    return Golden(inputs=inputs, logits=logits, exact=exact, features=features)


def _read_array(
    archive: zipfile.ZipFile, name: str, dtype: type[np.generic], *, dimensions: int
) -> NDArray[Any]:
    """Return an array as numpy packs it; its size is checked before it is allocated."""
    entry, expected = archive.getinfo(f"{name}.npy"), np.dtype(dtype)
    if entry.flag_bits & ENCRYPTED or entry.compress_type not in PACKINGS:
        raise InputError(f"{name} is encrypted, or not stored with zip's deflate")
    with archive.open(entry) as file:
        header = _HEADER.fullmatch(_header(file))
        if header is None:
            raise ValueError(f"{name}: no array of numbers as numpy writes it")
        if header[1].decode() != expected.str:  # |f1, for one, is no dtype
            raise InputError(EXPECTED)
        shape = tuple(int(side) for side in header[2].split(b",") if side.strip())
        values = file.read(entry.file_size)
    if len(shape) != dimensions:
        raise InputError(EXPECTED)
    if len(values) != math.prod(shape) * expected.itemsize:
        raise InputError(f"{name}: {len(values):,} bytes do not fit the shape {shown(shape)}")
    return np.frombuffer(values, expected).reshape(shape).copy()  # writable


def _header(file: IO[bytes]) -> bytes:
    magic, length = struct.unpack("<8sH", file.read(10))
    return file.read(length) if magic == b"\x93NUMPY\x01\x00" else b""

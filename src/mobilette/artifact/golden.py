"""Golden vectors: a few inputs, and the logits that the checkpoint gave for them."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.errors import InputError
from mobilette.files import read_bytes

PICTURES = 8
LARGEST = 512 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """Inputs and the checkpoint's answers to them.

    Attributes:
        inputs: uint8 (N, C, H, W).
        logits: float32 (N, classes).
        exact: int8 (N, classes): of an int8 model that has one right answer, that answer as it
            leaves the model, by LiteRT's reference kernels.
    """

    inputs: NDArray[np.uint8]
    logits: NDArray[np.float32]
    exact: NDArray[np.int8] | None = None

    def to_bytes(self) -> bytes:
        """Return the content of ``golden.npz``."""
        buffer = io.BytesIO()
        arrays: dict[str, NDArray[Any]] = {"inputs": self.inputs, "logits": self.logits}
        if self.exact is not None:
            arrays["exact"] = self.exact
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()


def golden_inputs(channels: int, resolution: int) -> NDArray[np.uint8]:
    """Return the same pictures every time, uint8 (8, channels, resolution, resolution).

    Coloured blobs, stronger in some channels and places than in others, so that a wrong mean, a
    swapped colour or a transposed axis changes the answer.
    """
    generator = np.random.default_rng(20_26)
    rows, columns = np.mgrid[0:resolution, 0:resolution] / resolution
    pictures = np.empty((PICTURES, channels, resolution, resolution), np.uint8)
    for picture in pictures:
        for plane in picture:
            y, x = generator.uniform(0, 1, 2)
            spread, low, high = generator.uniform((0.05, 0, 96), (0.6, 96, 255))
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / spread)
            noise = generator.normal(0, 12, blob.shape)
            plane[:] = np.clip(low + (high - low) * blob + noise, 0, 255)
    return pictures


def read_golden(path: Path) -> Golden:
    """Return the golden vectors in ``path``; nothing in it is executed.

    Raises:
        InputError: it is damaged, too large, or its arrays are not what they should be.
    """
    content = read_bytes(path, limit=LARGEST)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise InputError(f"{path}: unpacks to more than {LARGEST:,} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            inputs, logits = arrays["inputs"], arrays["logits"]
            exact = arrays.get("exact")
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a complete file of golden vectors") from error
    good = (
        inputs.dtype == np.uint8
        and logits.dtype == np.float32
        and inputs.ndim == 4
        and logits.ndim == 2
        and len(inputs) == len(logits) > 0
        and (exact is None or (exact.dtype == np.int8 and exact.shape == logits.shape))
    )
    if not good:
        raise InputError(f"{path}: uint8 inputs (N, C, H, W) and float32 logits are expected")
    return Golden(inputs=inputs, logits=logits, exact=exact)

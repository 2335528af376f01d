"""CIFAR-10 and CIFAR-100 in the binary version: no pickles, nothing unpacked to disk.

Source: https://www.cs.toronto.edu/~kriz/cifar.html. A record is one label byte (CIFAR-100: the
coarse label, then the fine one) and 3,072 bytes of pixels, 32 by 32, as red, green and blue planes.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mobilette.errors import InputError
from mobilette.files import read_bytes

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class CifarLayout:
    """File names and sizes of one binary version."""

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    class_names: str
    classes: int
    label_bytes: int  # the last one is the label
    train_records: int  # in each file
    test_records: int = 10_000

    @property
    def url(self) -> str:
        """Where the archive is published."""
        return f"https://www.cs.toronto.edu/~kriz/{self.archive}"


LAYOUTS: Mapping[str, CifarLayout] = MappingProxyType(
    {
        "cifar10": CifarLayout(
            archive="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            test="test_batch.bin",
            class_names="batches.meta.txt",
            classes=10,
            label_bytes=1,
            train_records=10_000,
        ),
        "cifar100": CifarLayout(
            archive="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            class_names="fine_label_names.txt",
            classes=100,
            label_bytes=2,
            train_records=50_000,
        ),
    }
)


# Pixels, uint8 (N, 32, 32, 3), and labels, uint8 (N,).
Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def read_cifar(layout: CifarLayout, root: Path) -> tuple[tuple[str, ...], dict[str, Arrays]] | None:
    """Read the archive, or else the unpacked folder, in ``root``.

    Returns:
        The classes in label order, and the splits ``"train"`` and ``"val"`` (the test batch);
        ``None`` if there is neither archive nor folder.

    Raises:
        InputError: the archive's checksum, a file's size or a label is wrong.
    """
    names = (*layout.train, layout.test, layout.class_names)
    if (root / layout.archive).is_file():
        pieces = _unpacked(layout, root / layout.archive, names)
    elif (root / layout.folder).is_dir():
        pieces = {name: read_bytes(root / layout.folder / name) for name in names}
    else:
        return None
    text = pieces[layout.class_names].decode("ascii", errors="replace")
    classes = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(set(classes)) != layout.classes or len(classes) != layout.classes:
        raise InputError(
            f"{layout.class_names} names {len(classes)} classes instead of {layout.classes}"
        )
    train = [_records(layout, name, pieces[name], layout.train_records) for name in layout.train]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    test = _records(layout, layout.test, pieces[layout.test], layout.test_records)
    return classes, {"train": (pixels, labels), "val": test}


def _unpacked(layout: CifarLayout, path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    data = read_bytes(path)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest != layout.md5:
        raise InputError(
            f"{path} has MD5 {digest} instead of {layout.md5}; fetch it again from {layout.url}"
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            pieces = {name: archive.extractfile(members[name]) for name in names}
            return {name: piece.read() for name, piece in pieces.items() if piece is not None}
    except (KeyError, tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is not the archive of {layout.url}: {error}") from error


def _records(layout: CifarLayout, name: str, data: bytes, count: int) -> Arrays:
    size = count * (layout.label_bytes + _PIXELS)
    if len(data) != size:
        raise InputError(f"{layout.folder}/{name} has {len(data):,} bytes instead of {size:,}")
    records = np.frombuffer(data, np.uint8).reshape(count, -1)
    labels = records[:, layout.label_bytes - 1].copy()
    if labels.max() >= layout.classes:
        raise InputError(
            f"{layout.folder}/{name} has the label {labels.max()}; "
            f"the labels are 0 to {layout.classes - 1}"
        )
    planes = records[:, layout.label_bytes :].reshape(count, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), labels

"""Reads Keras 3's ``.keras``: a zip archive or folder with a topology and weights.

Format: keras-team/keras, saving/saving_lib.py (config.json, metadata.json, model.weights.h5).
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD, check_file, read_bytes
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.keras.graph import keras_graph
from mobilette.formats.keras.h5 import LARGEST_MODEL, parse_topology, read_arrays
from mobilette.formats.torch.torch_files import check_list_of_parts

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
SHARDED = "model.weights.json"
LARGEST_FACTOR = 4  # of weights to archive size: floats hardly compress
DAMAGED = (
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,  # encrypted
    UnicodeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def is_keras_archive(path: Path) -> bool:
    """Whether ``path`` is an archive or a folder with a Keras topology."""
    if path.is_dir():
        return (path / CONFIG).is_file() and (path / METADATA).is_file()
    try:
        with path.open("rb") as file:
            check_list_of_parts(file)
            with zipfile.ZipFile(file) as archive:
                return {CONFIG, METADATA} <= set(archive.namelist())
    except DAMAGED:
        return False


def read_keras_archive(path: Path, resolution: int | None = None) -> FileNetwork:
    """Return the network of a Keras model; nothing in the archive is executed.

    Raises:
        InputError: it is damaged, unpacks to too much, or has unsupported layers.
    """
    if path.is_dir():
        names = [file.name for file in path.iterdir()]
        config, metadata = (
            read_bytes(path / name, limit=LARGEST_RECORD) for name in (CONFIG, METADATA)
        )
        _check_names(path, names)
        check_file(path / WEIGHTS, limit=LARGEST_MODEL)
        _, layers = read_arrays(path / WEIGHTS)
    else:
        size = check_file(path, limit=LARGEST_MODEL)
        try:
            with zipfile.ZipFile(path) as archive:
                _check_names(path, archive.namelist())
                config, metadata = (
                    _member(archive, name, limit=LARGEST_RECORD) for name in (CONFIG, METADATA)
                )
                _check_size(archive, WEIGHTS, limit=LARGEST_FACTOR * size)
        except InputError:
            raise
        except DAMAGED as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: a damaged Keras archive ({reason})") from error
        _, layers = read_arrays(path, member=WEIGHTS)
    topology, described = (
        parse_topology(text.decode(errors="replace"), where=f"{path}: its {name}")
        for text, name in ((config, CONFIG), (metadata, METADATA))
    )
    version = described.get("keras_version") if isinstance(described, dict) else None
    return keras_graph(
        topology, layers, where=str(path), version=str(version or 3), resolution=resolution
    )


def _check_names(path: Path, names: list[str]) -> None:
    if SHARDED in names:
        raise InputError(f"{path}: its weights are in several files; save without max_shard_size")
    if WEIGHTS not in names:
        raise InputError(f"{path}: a Keras archive without {WEIGHTS}")


def _check_size(archive: zipfile.ZipFile, name: str, *, limit: int) -> None:
    size = archive.getinfo(name).file_size
    if size > limit:
        raise InputError(f"{archive.filename}: {name} would have {size:,} bytes: too large")


def _member(archive: zipfile.ZipFile, name: str, *, limit: int) -> bytes:
    _check_size(archive, name, limit=limit)
    with archive.open(name) as member:
        content = member.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{archive.filename}: {name} has more bytes than it should: too large")
    return content

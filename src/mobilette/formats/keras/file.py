"""Reads Keras' files: ``.h5``, a whole model or weights alone, and ``.keras``.

Keras 3's ``.keras`` is a zip archive or folder with config.json, metadata.json and model.weights.h5
(keras-team/keras, saving/saving_lib.py).
"""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD, check_file, read_bytes
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.keras import h5_process
from mobilette.formats.keras.graph import keras_graph
from mobilette.formats.keras.weights import LayerWeights, in_order_of_kind
from mobilette.formats.torch.torch_files import check_list_of_parts
from mobilette.isolated import run_isolated

LARGEST_MODEL = 2 * 2**30
LONGEST_S = 300.0


def read_keras_h5(path: Path, resolution: int | None = None) -> FileNetwork | list[LayerWeights]:
    """Return the network of a Keras model, or its layers' weights in order if it has no topology.

    HDF5 runs in a separate process, since it may crash on damaged files. External links are not
    followed and nothing in the file is executed (Keras' lambdas).

    Raises:
        InputError: not such a file, damaged, or with unsupported layers.
    """
    check_file(path, limit=LARGEST_MODEL)
    description, layers = read_arrays(path)
    config = description["config"]
    if config is None:
        return layers if description["legacy"] else in_order_of_kind(layers, where=str(path))
    topology = parse_topology(config, where=f"{path}: its model_config")
    return keras_graph(
        topology, layers, where=str(path), version=description["version"], resolution=resolution
    )


def parse_topology(config: str, *, where: str) -> Any:
    """Return the JSON value of a topology."""
    if len(config) > LARGEST_RECORD:
        raise InputError(f"{where} has {len(config):,} characters")
    try:
        return json.loads(config)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({error})") from error


def read_arrays(
    path: Path, *, member: str | None = None
) -> tuple[dict[str, Any], list[LayerWeights]]:
    """Return the description and weights in an HDF5 file, or in a ``member`` of a zip archive."""
    if importlib.util.find_spec("h5py") is None:
        raise InputError(f"{path}: h5py is missing; pip install 'mobilette[weights]' brings it")
    arguments = [str(path)] if member is None else [str(path), member]
    try:
        read = run_isolated(
            h5_process.__name__,
            *arguments,
            longest_s=LONGEST_S,
            crashed="damaged; the HDF5 library crashed on it",
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    with np.load(io.BytesIO(read), allow_pickle=False) as content:
        text, *arrays = (content[name] for name in content.files)
    description = json.loads(text.tobytes())
    remaining = iter(arrays)
    layers = [
        LayerWeights(name=layer, parameters={name: next(remaining) for name in names})
        for layer, names in description["layers"]
    ]
    return description, layers


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

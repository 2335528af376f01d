"""Reads Keras' and TensorFlow.js' files, and recognises TensorFlow's own, which are not read.

- ``.h5``: a whole model, or weights alone.
- ``.keras`` of Keras 3: a zip archive or folder with config.json, metadata.json and
  model.weights.h5 (keras-team/keras, saving/saving_lib.py).
- ``model.json`` of TensorFlow.js and the weight files beside it (tfjs-converter; "weightsManifest":
  groups of files, each the concatenated little-endian bytes of the group's weights as listed).
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD, check_file, read_bytes, read_head, read_json
from mobilette.formats.file_layers import FileNetwork, Weights
from mobilette.formats.keras import h5_process
from mobilette.formats.keras.graph import DAMAGED, keras_graph
from mobilette.formats.keras.weights import LayerWeights, in_order_of_kind
from mobilette.formats.torch import torch_files
from mobilette.formats.torch.other_files import SHARDED
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
        raise InputError(
            f"{path}: h5py is missing; install it with pip install 'mobilette[weights]'"
        )
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
SHARDED_WEIGHTS = "model.weights.json"
LARGEST_FACTOR = 4  # of weights to archive size: floats hardly compress
DAMAGED_ARCHIVE = (*torch_files.DAMAGED, zlib.error)


def is_keras_archive(path: Path) -> bool:
    """Whether ``path`` is an archive or a folder with a Keras topology."""
    if path.is_dir():
        return (path / CONFIG).is_file() and (path / METADATA).is_file()
    try:
        with path.open("rb") as file:
            torch_files.check_list_of_parts(file)
            with zipfile.ZipFile(file) as archive:
                return {CONFIG, METADATA} <= set(archive.namelist())
    except DAMAGED_ARCHIVE:
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
                for name in (CONFIG, METADATA):
                    _check_size(archive, name, limit=LARGEST_RECORD)
                _check_size(archive, WEIGHTS, limit=LARGEST_FACTOR * size)
                config, metadata = archive.read(CONFIG), archive.read(METADATA)
        except InputError:
            raise
        except DAMAGED_ARCHIVE as error:
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
    if SHARDED_WEIGHTS in names:
        raise InputError(f"{path}: sharded weights are not supported; save without max_shard_size")
    if WEIGHTS not in names:
        raise InputError(f"{path}: a Keras archive without {WEIGHTS}")


def _check_size(archive: zipfile.ZipFile, name: str, *, limit: int) -> None:
    size = archive.getinfo(name).file_size
    if size > limit:
        raise InputError(f"{archive.filename}: {name} unpacks to {size:,} bytes: too large")


MODEL = "model.json"
TYPES = {"float32": "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}


def read_tensorflowjs(path: Path, resolution: int | None = None) -> FileNetwork:
    """Return the network of a TensorFlow.js layers model, with quantised weights as floats.

    ``path`` is ``model.json`` or its folder, ``resolution`` in pixels, if the model leaves it open.

    Raises:
        InputError: a file is missing or has the wrong length, or the model has unsupported layers.
    """
    path = path / MODEL if path.is_dir() else path
    content = read_json(path)
    try:
        if isinstance(content, dict) and "weight_map" in content:
            raise InputError(SHARDED)
        if not isinstance(content, dict) or content.get("format") == "graph-model":
            raise InputError("a TensorFlow.js graph model; only layers models are supported")
        topology = content["modelTopology"]
        weights: dict[str, dict[str, Weights]] = {}
        groups = content["weightsManifest"]
        _check_files([name for group in groups for name in group["paths"]])
        left = LARGEST_MODEL
        for group in groups:
            read = b"".join(read_bytes(path.parent / name, limit=left) for name in group["paths"])
            left -= len(read)
            for name, array in _group(group, read).items():
                layer, _, parameter = name.rpartition("/")
                weights.setdefault(layer, {})[parameter] = array
        config, version = topology["model_config"], str(topology.get("keras_version", "2"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except DAMAGED as error:
        raise InputError(
            f"{path}: not a TensorFlow.js layers model, or damaged ({type(error).__name__})"
        ) from error
    layers = [LayerWeights(name=name, parameters=named) for name, named in weights.items()]
    return keras_graph(config, layers, where=str(path), version=version, resolution=resolution)


def _check_files(names: list[str]) -> None:
    """Raise `InputError` unless ``names`` are distinct files beside the manifest."""
    for name in names:
        # PureWindowsPath handles both kinds of slash, and drives.
        if name in ("", "..") or PureWindowsPath(name).name != name:
            raise InputError(f"the manifest's file {name!r} is not in its folder")
    if len(set(names)) < len(names):
        raise InputError("its manifest names a file twice")


def _group(group: Mapping[str, Any], content: bytes) -> dict[str, Weights]:
    """Return the weights of one group of the manifest by name."""
    arrays: dict[str, Weights] = {}
    place = 0
    for weight in group["weights"]:
        shape = tuple(int(size) for size in weight["shape"])
        quantised = weight.get("quantization")
        kind = np.dtype(TYPES[quantised["dtype"] if quantised else weight["dtype"]])
        end = place + prod(shape) * kind.itemsize
        if min(shape, default=1) < 1 or end > len(content):
            raise InputError(f"{weight['name']!r} of shape {shape} is longer than {group['paths']}")
        array = np.frombuffer(content[place:end], kind).reshape(shape).astype(np.float32)
        if quantised and "scale" in quantised:
            with np.errstate(over="ignore", invalid="ignore"):  # checked for finite values later
                array = array * np.float32(quantised["scale"]) + np.float32(quantised["min"])
        arrays[str(weight["name"])] = array
        place = end
    if place != len(content):
        raise InputError(f"{group['paths']} have {len(content):,} bytes, the weights {place:,}")
    return arrays


# Footer of LevelDB's tables, the format of a checkpoint's index
TABLE = bytes.fromhex("57fb808b247547db")
SAVED_MODEL = "saved_model.pb"
SAVE = "model.save('model.keras')"


def check_not_tensorflow(path: Path) -> None:
    """Raise `InputError` for a SavedModel, checkpoint or graph of TensorFlow.

    The message has the line that converts it in TensorFlow.
    """
    if path.is_dir():
        _check_folder(path)
    elif _is_of_checkpoint(path):
        raise InputError(_checkpoint(path))
    elif path.suffix == ".pb":
        raise InputError(
            f"{path}: a TensorFlow graph; convert it with tf.lite.TFLiteConverter and give the "
            ".tflite file"
        )


def _check_folder(path: Path) -> None:
    if (path / SAVED_MODEL).is_file():
        load = f"tf.keras.models.load_model({str(path)!r}).save('model.keras')"
        raise InputError(
            f"{path}: a TensorFlow SavedModel, which holds code; in the TensorFlow that wrote "
            f"it, {load} writes a supported file"
        )
    if any(path.glob("*.index")):
        raise InputError(_checkpoint(path))


def _checkpoint(path: Path) -> str:
    return (
        f"{path}: a TensorFlow checkpoint: variables without the network; build the model, "
        f"model.load_weights(...) and {SAVE} write a supported file"
    )


def _is_of_checkpoint(path: Path) -> bool:
    if path.name == "checkpoint":
        return b"checkpoint_path" in read_head(path, 100)
    return bool(re.search(r"\.data-\d{5}-of-\d{5}$", path.name)) or _ends_as_table(path)


def _ends_as_table(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(TABLE)))
        return file.read() == TABLE

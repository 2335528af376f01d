"""Reads TensorFlow.js layers models, and recognises TensorFlow's own files, which are not read.

Format of ``model.json`` and the weight files beside it: tfjs-converter, tensorflow/tfjs
("weightsManifest": groups of files, each the concatenated little-endian bytes of the group's
weights in the order listed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from mobilette.errors import InputError
from mobilette.files import read_bytes, read_head, read_json
from mobilette.formats.file_layers import FileNetwork, Weights
from mobilette.formats.keras.graph import DAMAGED, keras_graph
from mobilette.formats.keras.weights import LayerWeights
from mobilette.formats.torch.other_files import SHARDED

MODEL = "model.json"
LARGEST_MODEL = 2 * 2**30
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
            raise InputError("a TensorFlow.js graph model; layers models are read")
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
            f"{path}: no TensorFlow.js layers model, or damaged ({type(error).__name__})"
        ) from error
    layers = [LayerWeights(name=name, parameters=named) for name, named in weights.items()]
    return keras_graph(config, layers, where=str(path), version=version, resolution=resolution)


def _check_files(names: list[str]) -> None:
    """Raise `InputError` unless ``names`` are distinct files beside the manifest."""
    for name in names:
        # PureWindowsPath handles both kinds of slash, and drives.
        if name in ("", "..") or PureWindowsPath(name).name != name:
            raise InputError(f"file {name!r} of the manifest does not lie beside it")
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
            f"{path}: a graph of TensorFlow; convert it with tf.lite.TFLiteConverter, and give the "
            ".tflite file"
        )


def _check_folder(path: Path) -> None:
    if (path / SAVED_MODEL).is_file():
        load = f"tf.keras.models.load_model({str(path)!r}).save('model.keras')"
        raise InputError(
            f"{path}: a SavedModel of TensorFlow, which names code; in the TensorFlow that wrote "
            f"it, {load} makes a file that is read"
        )
    if any(path.glob("*.index")):
        raise InputError(_checkpoint(path))


def _checkpoint(path: Path) -> str:
    return (
        f"{path}: a checkpoint of TensorFlow: variables without the network; build the model, "
        f"model.load_weights(...) and {SAVE} make a file that is read"
    )


def _is_of_checkpoint(path: Path) -> bool:
    if path.name == "checkpoint":
        return b"checkpoint_path" in read_head(path, 100)
    return bool(re.search(r"\.data-\d{5}-of-\d{5}$", path.name)) or _ends_as_table(path)


def _ends_as_table(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(TABLE)))
        return file.read() == TABLE

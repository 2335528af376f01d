"""Reads Keras ``.h5`` files: a whole model, or the weights alone."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD, check_file
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.keras import h5_process
from mobilette.formats.keras.graph import keras_graph
from mobilette.formats.keras.weights import LayerWeights, in_order_of_kind
from mobilette.formats.missing_extra import missing_extra
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
    """Return the JSON value of a topology.

    Raises:
        InputError: it is too long or not JSON.
    """
    if len(config) > LARGEST_RECORD:
        raise InputError(f"{where} has {len(config):,} characters")
    try:
        return json.loads(config)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({error})") from error


def read_arrays(
    path: Path, *, member: str | None = None
) -> tuple[dict[str, Any], list[LayerWeights]]:
    """Return the description and weights in an HDF5 file, or in a ``member`` of a zip archive.

    Raises:
        InputError: it is damaged, or h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise InputError(f"{path}: {missing_extra('h5py')}")
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

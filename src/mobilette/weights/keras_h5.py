"""Keras ``.h5`` files: a whole model, or the weights alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilette.errors import InputError
from mobilette.files import LARGEST_RECORD, check_file
from mobilette.weights.graph import Graph, Weights
from mobilette.weights.keras_graph import keras_graph
from mobilette.weights.keras_weights import LayerWeights
from mobilette.weights.missing_extra import missing_extra

if TYPE_CHECKING:
    import h5py

# What damaged or hostile files make h5py raise: lookups of what is not there, sizes that are none
# or too large, text that is none.
DAMAGED = (
    AttributeError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
LARGEST_MODEL = 2 * 2**30
MANY = 10_000


def read_keras_h5(path: Path) -> Graph | list[LayerWeights]:
    """Return the graph of a Keras model, or its layers' weights in order if it has no topology.

    Links are not followed out of the file, and nothing in it is executed (Keras' lambdas).

    Raises:
        InputError: not such a file, damaged, or of layers that no network here has.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: {missing_extra('h5py')}") from error
    size = check_file(path, limit=LARGEST_MODEL)
    try:
        with h5py.File(path, "r") as file:
            config = _attribute(file, "model_config")
            version = _text(file.attrs.get("keras_version", "2"))
            root = file["model_weights"] if config is not None else file
            layers = list(_layers(root, 2 * size))  # float16 becomes float32
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a complete Keras .h5 file, or damaged ({reason})") from error
    if config is None:
        return layers
    if len(config) > LARGEST_RECORD:
        raise InputError(f"{path}: its model_config has {len(config):,} characters")
    try:
        topology = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its model_config is not valid JSON ({error})") from error
    return keras_graph(topology, layers, where=str(path), version=version)


def _layers(root: h5py.Group, limit: int) -> Iterator[LayerWeights]:
    """Yield the layers that have weights, together at most ``limit`` bytes, in the file's order."""
    for group_name in _names(root, "layer_names"):
        group = _member(root, group_name)
        nested: dict[str, dict[str, Weights]] = {}
        for name in _names(group, "weight_names"):
            array = _array(_member(group, name), limit)
            limit -= array.nbytes
            layer, _, parameter = name.removesuffix(":0").rpartition("/")
            layer = layer.removeprefix(f"{group_name}/") or group_name
            nested.setdefault(layer, {})[parameter] = array
        if len(nested) == 1:  # older files repeat the layer's name, newer ones shorten it
            nested = dict(zip([group_name], nested.values(), strict=True))
        for layer, parameters in nested.items():
            yield LayerWeights(name=layer, parameters=parameters)


def _member(group: h5py.Group, name: str) -> Any:
    """Return what lies at ``name`` in ``group``; only plain links are followed."""
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(
            group.get(part, getlink=True), h5py.HardLink
        ):
            raise InputError(f"{name!r} is missing, or no plain member of the file")
        group = group[part]
    return group


def _array(dataset: Any, limit: int) -> Weights:
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
        raise InputError(f"{getattr(dataset, 'name', 'a weight')!r} is no array of floats")
    if dataset.external is not None or dataset.is_virtual:
        raise InputError(f"{dataset.name!r} lies in another file")
    # A chunk is unpacked as a whole, however little of it the array has.
    if dataset.size is None or max(dataset.size, prod(dataset.chunks or ())) * 4 > limit:
        raise InputError(f"{dataset.name!r} is of shape {dataset.shape}: too large to be true")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found later
        return np.asarray(dataset[()], dtype=np.float32)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Return a list of names; Keras splits those that are too long for one attribute."""
    parts = [attribute] if attribute in group.attrs else []
    while attribute not in parts and f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    names = [_text(name) for part in parts for name in np.atleast_1d(group.attrs[part])]
    if not parts or len(names) > MANY:
        raise InputError(f"{group.name!r} has no list of {attribute}")
    return names


def _attribute(file: h5py.File, name: str) -> str | None:
    return _text(file.attrs[name]) if name in file.attrs else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

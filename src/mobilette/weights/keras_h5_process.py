"""Reads a Keras ``.h5`` file in a process of its own: ``python -m ... FILE`` (`keras_h5`).

The HDF5 library is written in C and has crashed on damaged files (docs/log.md). Here a crash ends
this process and not the one that asked. What was read goes to stdout as numpy's ``.npz``.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilette.errors import InputError
from mobilette.weights.graph import Weights

if TYPE_CHECKING:
    import h5py

REFUSED = 2
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
MANY = 10_000


def main(path: Path) -> int:
    """Write the file's description and arrays to stdout, or why not to stderr; return a status."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config = _attribute(file, "model_config")
            version = _text(file.attrs.get("keras_version", "2"))
            root = file["model_weights"] if config is not None else file
            layers = list(_layers(root, 2 * path.stat().st_size))  # float16 becomes float32
    except InputError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:120]
        print(f"not a complete Keras .h5 file, or damaged ({reason})", file=sys.stderr)
        return REFUSED
    names = [[layer, list(parameters)] for layer, parameters in layers]
    description = {"config": config, "version": version, "layers": names}
    arrays = [array for _, parameters in layers for array in parameters.values()]
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(description).encode(), np.uint8)
    np.savez(content, text, *arrays)
    sys.stdout.buffer.write(content.getbuffer())
    return 0


def _layers(root: h5py.Group, limit: int) -> Iterator[tuple[str, dict[str, Weights]]]:
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
        yield from nested.items()


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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

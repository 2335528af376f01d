"""Reads a Keras ``.h5`` file in a separate process: ``python -m ... FILE [MEMBER]`` (`h5`).

The HDF5 library has crashed on damaged files (docs/log.md); here a crash ends only this process.
The result goes to stdout as numpy's ``.npz``. FILE may be a zip archive with the HDF5 file as
MEMBER, as in Keras 3's ``.keras``.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilette.errors import InputError
from mobilette.formats.file_layers import Weights
from mobilette.isolated import REFUSED

if TYPE_CHECKING:
    import h5py

# Raised by h5py on damaged or hostile files: missing members, impossible sizes, invalid text.
DAMAGED = (
    AttributeError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
MANY = 10_000
DEEPEST = 16
VARIABLES = "vars"
# The list of a model's layers in earlier versions of Keras 3's format.
OLDER_NAMES = {"_layer_checkpoint_dependencies": "layers"}


def main(path: Path, member: str | None = None) -> int:
    """Write the description and arrays to stdout, or the error to stderr; return a status."""
    import h5py

    try:
        content = None if member is None else zipfile.ZipFile(path).read(member)
        size = path.stat().st_size if content is None else len(content)
        with h5py.File(path if content is None else io.BytesIO(content), "r") as file:
            config = _attribute(file, "model_config")
            version = _text(file.attrs.get("keras_version", "2"))
            limit = 2 * size  # float16 becomes float32
            root = file["model_weights"] if config is not None else file
            legacy = config is not None or any(
                name.startswith("layer_names") for name in file.attrs
            )
            layers = list(_layers(root, limit) if legacy else _variables(file, limit))
    except InputError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:120]
        print(f"not a complete Keras .h5 file, or damaged ({reason})", file=sys.stderr)
        return REFUSED
    names = [[layer, list(parameters)] for layer, parameters in layers]
    description = {"config": config, "version": version, "legacy": legacy, "layers": names}
    arrays = [array for _, parameters in layers for array in parameters.values()]
    written = io.BytesIO()
    text = np.frombuffer(json.dumps(description).encode(), np.uint8)
    np.savez(written, text, *arrays)
    sys.stdout.buffer.write(written.getbuffer())
    return 0


def _layers(root: h5py.Group, limit: int) -> Iterator[tuple[str, dict[str, Weights]]]:
    """Yield the layers with weights, at most ``limit`` bytes in all, in the file's order.

    A layer of a nested model is called ``MODEL/LAYER``.
    """
    for group_name in _names(root, "layer_names"):
        group = _member(root, group_name)
        nested: dict[str, dict[str, Weights]] = {}
        for name in _names(group, "weight_names"):
            array = _array(_member(group, name), limit)
            if array is None:
                continue
            limit -= array.nbytes
            layer, _, parameter = name.removesuffix(":0").rpartition("/")
            named = nested.setdefault(layer.rpartition("/")[2] or group_name, {})
            if parameter in named:
                raise InputError(f"two weights in {group_name!r} are called {name!r}")
            named[parameter] = array
        if len(nested) == 1:  # older files repeat the layer's name, newer ones shorten it
            nested = dict(zip([group_name], nested.values(), strict=True))
        else:
            nested = {f"{group_name}/{layer}": found for layer, found in nested.items()}
        yield from nested.items()


def _variables(file: h5py.File, limit: int) -> Iterator[tuple[str, dict[str, Weights]]]:
    """Yield each layer's path and variables ("0", "1", ...) in Keras 3's layout."""
    import h5py

    open_groups: list[tuple[str, Any]] = [("", file)]
    count = 0
    while open_groups:
        path, group = open_groups.pop()
        for name in group:
            part = _member(group, name)
            if not isinstance(part, h5py.Group):
                continue
            count += 1
            parts = name.replace("\\", "/").split("/")  # once written with backslashes on Windows
            inner = [path, *(OLDER_NAMES.get(part, part) for part in parts)]
            if count > MANY or len(inner) + path.count("/") > DEEPEST:
                raise InputError(f"more than {MANY:,} groups, or groups nested too deeply")
            if parts[0].startswith("optimizer"):
                continue
            if parts[-1] != VARIABLES:
                open_groups.append(("/".join(filter(None, inner)), part))
                continue
            variables = {}
            for number in sorted(part, key=lambda number: (len(number), number)):
                array = _array(_member(part, number), limit)
                if array is not None:
                    limit -= array.nbytes
                    variables[number] = array
            if variables:
                yield "/".join(filter(None, inner[:-1])), variables


def _member(group: h5py.Group, name: str) -> Any:
    """Return the member ``name`` of ``group``, following hard links only."""
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(
            group.get(part, getlink=True), h5py.HardLink
        ):
            raise InputError(f"{name!r} is missing, or a link")
        group = group[part]
    return group


def _array(dataset: Any, limit: int) -> Weights | None:
    """Return an array as float32, or ``None`` for a counter or random seed."""
    import h5py

    if isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in "iu":
        if len(dataset.shape or ()) < 2 and (dataset.size or 0) <= 2:
            return None
        raise InputError(
            f"{dataset.name!r} is an array of {dataset.dtype}, not of floats: quantised layers are "
            "not supported; save the model as it was before model.quantize"
        )
    bfloat16 = isinstance(dataset, h5py.Dataset) and dataset.dtype == np.dtype("V2")
    if not isinstance(dataset, h5py.Dataset) or not (dataset.dtype.kind == "f" or bfloat16):
        raise InputError(f"{getattr(dataset, 'name', 'a weight')!r} is not an array of floats")
    if dataset.external is not None or dataset.is_virtual:
        raise InputError(f"{dataset.name!r} lies in another file")
    # A chunk is unpacked as a whole, however little of it the array uses.
    if dataset.size is None or max(dataset.size, prod(dataset.chunks or ())) * 4 > limit:
        raise InputError(f"{dataset.name!r} has the shape {dataset.shape}: larger than the file")
    with np.errstate(over="ignore", invalid="ignore"):  # checked for finite values later
        if bfloat16:
            upper = np.asarray(dataset[()]).view(np.uint16).astype(np.uint32)
            return (upper << np.uint32(16)).view(np.float32)
        return np.asarray(dataset[()], dtype=np.float32)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Return a list of names; Keras splits lists that are too long for one attribute."""
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
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))

"""Keras itself: importing it on its PyTorch backend, and checking what it is to read."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from mobilette.errors import InputError
from mobilette.extras import needs
from mobilette.formats.keras.file import CONFIG, DAMAGED_ARCHIVE, METADATA, WEIGHTS
from mobilette.silence import silence

EXTRA, BACKEND = "keras", "torch"
_VARIABLE = "KERAS_BACKEND"
# What `mobilette.exporters.keras` writes; none of it holds code.
CLASSES = frozenset(
    (
        *("Functional", "InputLayer", "Rescaling", "Conv2D", "DepthwiseConv2D", "Dense"),
        *("Activation", "ZeroPadding2D", "MaxPooling2D", "AveragePooling2D", "Flatten"),
        *("GlobalAveragePooling2D", "AdaptiveAveragePooling2D", "Add", "Concatenate", "Multiply"),
        *("Reshape", "Permute", "Identity", "Flip", "GetItem", "Pad"),
        *("GlorotUniform", "Zeros", "DTypePolicy", "__keras_tensor__", "__slice__"),
    )
)


def import_keras(what: str) -> Any:
    """Return Keras on its PyTorch backend, for ``what``, such as "export to keras".

    The backend is that of the whole process. The environment is as before afterwards.

    Raises:
        InputError: Keras is missing, was imported with another backend, or is configured for
            channels first or another float type than float32.
    """
    before = os.environ.get(_VARIABLE)
    if "keras" not in sys.modules:
        os.environ[_VARIABLE] = BACKEND
    try:
        with needs(EXTRA, what), silence():
            import h5py  # noqa: F401  Keras saves without it, but reads nothing
            import keras
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    config = keras.config
    if config.backend() != BACKEND:
        raise InputError(
            f"{what}: Keras was imported with the {config.backend()} backend before; set "
            f"{_VARIABLE}={BACKEND}, or use a process of its own"
        )
    if (config.image_data_format(), config.floatx()) != ("channels_last", "float32"):
        raise InputError(
            f"{what}: Keras is configured for {config.image_data_format()} and {config.floatx()}; "
            "channels_last and float32 are needed (keras.json in ~/.keras)"
        )
    return keras


def check_archive(content: bytes) -> dict[str, Any]:
    """Return the metadata in a ``.keras`` archive that is safe for Keras to read.

    Such an archive contains only layers of Keras that hold no code, and nothing compressed.

    Raises:
        InputError: it is not such an archive, or damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = archive.infolist()
            if sorted(file.filename for file in files) != sorted((CONFIG, METADATA, WEIGHTS)):
                raise InputError(f"contains other files than {CONFIG}, {METADATA} and {WEIGHTS}")
            for file in files:
                if file.compress_type != zipfile.ZIP_STORED or file.file_size > len(content):
                    raise InputError(f"{file.filename} is compressed")
            config, metadata = (json.loads(archive.read(name)) for name in (CONFIG, METADATA))
            for kind, module in _classes(config):
                if kind not in CLASSES or module.partition(".")[0] not in ("", "keras"):
                    raise InputError(f"contains a {kind!r:.80} of {module!r:.80}, not from here")
    except InputError:
        raise
    except (*DAMAGED_ARCHIVE, ValueError, RecursionError) as error:
        raise InputError(
            f"a damaged Keras archive ({' '.join(str(error).split())[:120]})"
        ) from error
    return metadata if isinstance(metadata, dict) else {}


def _classes(value: Any) -> Iterator[tuple[str, str]]:
    """Yield class and module of everything that Keras would make from a configuration."""
    if isinstance(value, dict):
        if "class_name" in value:
            names = (value["class_name"], value.get("registered_name"))
            yield from ((str(name), str(value.get("module") or "")) for name in names if name)
        for each in value.values():
            yield from _classes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _classes(each)

"""Reads Caffe's two files into layers with their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from mobilette.errors import InputError, shown
from mobilette.files import read_bytes
from mobilette.formats.caffe.schema import messages
from mobilette.formats.caffe.wire import Splitter
from mobilette.formats.file_layers import Weights

_LARGEST = 2**30  # bytes; VGG-19 in float32 has 575 million
_LARGEST_TEXT = 4 * 2**20
_LAYERS = {100: ("LayerParameter", 7), 2: ("V1LayerParameter", 6)}  # with the number of ``blobs``
_DATA, _DIFF, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 8, 9
_MOST_DIMENSIONS = 8
_SPELLED = {"RELU": "ReLU", "LRN": "LRN", "MVN": "MVN", "SOFTMAX_LOSS": "SoftmaxWithLoss"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRecord:
    """A layer as defined; ``type`` is spelled as since 2015, ``message`` has its parameters."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    message: Any
    blobs: tuple[Weights, ...] = ()

    @property
    def is_tested(self) -> bool:
        """Whether the layer is there in the phase TEST, whose number is 1."""
        included, excluded = (
            [rule.phase == 1 or not rule.HasField("phase") for rule in rules]
            for rules in (self.message.include, self.message.exclude)
        )
        return any(included) if included else not any(excluded)

    def __str__(self) -> str:
        return f"{self.type} {self.name!r:.60}"


@dataclass(frozen=True, kw_only=True, eq=False)
class NetRecord:
    """A network as defined, layers in order.

    ``message`` has the input's shape, unless a layer states it.
    """

    message: Any
    layers: tuple[LayerRecord, ...]


def read_caffemodel(path: Path) -> NetRecord:
    """Read the weights of ``path`` with the definition they were saved with.

    Raises:
        InputError: the file is damaged, or larger than 1 GiB.
    """
    content = memoryview(read_bytes(path, limit=_LARGEST))
    splitter = Splitter()
    try:
        rest, parts = splitter.split(content, _LAYERS)
        layers = []
        for number, part in parts:
            kind, blobs_number = _LAYERS[number]
            fields, blobs = splitter.split(part, (blobs_number,))
            record = _layer(_parsed(kind, fields))
            try:
                weights = tuple(_blob(splitter, blob) for _, blob in blobs)
            except InputError as error:
                raise InputError(f"{record}: {error}") from None
            layers.append(replace(record, blobs=weights))
        net = _parsed("NetParameter", rest)
        return NetRecord(message=net, layers=tuple(layers))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_prototxt(path: Path) -> NetRecord:
    """Read the definition in ``path``.

    Raises:
        InputError: it is not a definition.
    """
    text = read_bytes(path, limit=_LARGEST_TEXT).decode("utf-8", "replace")
    net = messages()["NetParameter"]()
    try:
        text_format.Parse(text, net, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise InputError(f"{path}: not a Caffe definition: line {shown(str(error))}") from None
    except RecursionError:
        raise InputError(f"{path}: not a Caffe definition: nested too deep") from None
    layers = tuple(_layer(message) for message in net.layer or net.layers)
    if not layers:
        raise InputError(f"{path}: defines no layers")
    return NetRecord(message=net, layers=layers)


def with_weights(net: NetRecord, stored: NetRecord) -> NetRecord:
    """Return ``net`` with the weights of the layers of the same names in ``stored``."""
    blobs = {layer.name: layer.blobs for layer in stored.layers if layer.blobs}
    layers = tuple(replace(layer, blobs=blobs.get(layer.name, ())) for layer in net.layers)
    return replace(net, layers=layers)


def find_definition(path: Path) -> Path | None:
    """Return the ``.prototxt`` beside ``path``, if there is one.

    The first rule that any file meets decides: the same name, with ``_deploy`` or ``-deploy``
    behind it or not; ``deploy.prototxt``; "deploy" in the name; all but solvers and definitions
    for training.

    Raises:
        InputError: several files meet the rule.
    """
    beside = sorted(path.parent.glob("*.prototxt"))
    names = (path.stem, f"{path.stem}_deploy", f"{path.stem}-deploy")
    rules = (
        [file for file in beside if file.stem == path.stem],
        [file for file in beside if file.stem in names],
        [file for file in beside if file.stem == "deploy"],
        [file for file in beside if "deploy" in file.stem.lower()],
        [file for file in beside if not any(x in file.stem.lower() for x in ("solver", "train"))],
    )
    found = next((files for files in rules if files), [])
    if len(found) > 1:
        listed = ", ".join(file.name for file in found[:5])
        raise InputError(
            f"{path}: {listed} are beside it; name the one that defines it {path.stem}.prototxt"
        )
    return found[0] if found else None


def _parsed(kind: str, content: bytes) -> Any:
    message = messages()[kind]()
    try:
        message.ParseFromString(content)
    except DecodeError:
        raise InputError("damaged, or not a .caffemodel") from None
    return message


def _layer(message: Any) -> LayerRecord:
    kind = message.type
    if not isinstance(kind, str):
        name = type(message).DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[kind].name
        kind = _SPELLED.get(name, name.title().replace("_", ""))
    return LayerRecord(
        name=message.name,
        type=kind,
        bottoms=tuple(message.bottom),
        tops=tuple(message.top),
        message=message,
    )


def _blob(splitter: Splitter, content: memoryview) -> Weights:
    """Return a blob's numbers in their shape, finite or not."""
    numbers = (_DATA, _DIFF, _DOUBLE_DATA, _DOUBLE_DIFF)
    rest, arrays = splitter.split(content, numbers)
    blob = _parsed("BlobProto", rest)
    legacy = (blob.num, blob.channels, blob.height, blob.width)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else legacy
    data = [(number, array) for number, array in arrays if number in (_DATA, _DOUBLE_DATA)]
    if len(data) != 1:
        raise InputError(f"weights in {len(data)} parts; one is expected")
    number, array = data[0]
    dtype = np.dtype("<f8" if number == _DOUBLE_DATA else "<f4")
    fits = len(shape) <= _MOST_DIMENSIONS and min(shape, default=1) > 0
    if not fits or math.prod(shape) * dtype.itemsize != len(array):
        raise InputError(
            f"{len(array):,} bytes of weights, which is not {dtype.name} of shape {shown(shape)}"
        )
    with np.errstate(over="ignore"):  # checked for finite values later
        return np.frombuffer(array, dtype).astype(np.float32).reshape(shape)

"""Reads Caffe's networks: the weights in ``.caffemodel``, the definition in ``.prototxt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilette.arch.primitives import INPUT, Shape
from mobilette.data.preprocess import Colour, Preprocess
from mobilette.errors import InputError
from mobilette.formats.caffe.definition import (
    LayerRecord,
    NetRecord,
    find_definition,
    read_caffemodel,
    read_prototxt,
    with_weights,
)
from mobilette.formats.caffe.operators import value_of
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.values import Value, Values

SUFFIX = ".caffemodel"
# They measure; nothing of the network reads them.
_MEASURING = ("Accuracy", "Silence")
_DATA = ("Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", "DummyData", "AnnotatedData")


def read_caffe(path: Path) -> FileNetwork:
    """Read the network of a ``.caffemodel``.

    Its layers and the size of its input are those of the ``.prototxt`` beside it
    (`find_definition`), or those it was saved with if there is none and they state the input. A
    batch norm and the scale behind it become one. ``transform_param``, in either file, is the
    preprocessing.

    Raises:
        InputError: a file cannot be read, is damaged, or has unsupported layers; or it is unclear
            which file is the definition.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: defines layers; give the {SUFFIX} of weights beside it")
    stored = read_caffemodel(path)
    beside = find_definition(path)
    defined = stored if beside is None else with_weights(read_prototxt(beside), stored)
    layers = tuple(layer for layer in defined.layers if layer.is_tested)
    source = path if beside is None else beside
    try:
        blob, shape = _input(defined.message, layers)
    except InputError as error:
        missing = f"; {path.stem}.prototxt, the definition for deployment, is expected beside it"
        raise InputError(f"{source}: {error}{'' if beside else missing}") from None
    values = Values()
    values.shape = shape
    try:
        output = _execute(values, layers, blob)
        if values.shape_of(output.layer)[1] != 1:
            raise InputError("its output is a map; a classifier's is one value for each class")
        last, ending = values.logits(output)
        preprocess = _preprocess([defined, stored], shape[0])
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    kept = values.leading_to(last)
    if not kept:
        raise InputError(f"{source}: its output is its input")
    names = {file.name for file in kept}
    tensors = [f"{layer.name}.{n}" for layer in stored.layers for n in range(len(layer.blobs))]
    used = {x for layer, stored_ in values.stored.items() if layer in names for x in stored_}
    return FileNetwork(
        where=str(path),
        layers=kept,
        output=last,
        shape=shape,
        ending=ending,
        preprocess=preprocess,
        tensors=tuple(tensors),
        unused=tuple(name for name in tensors if name not in used),
        remarks=() if beside is None else (f"layers as defined in {beside.name}",),
    )


def _input(net: Any, layers: Sequence[LayerRecord]) -> tuple[str, Shape]:
    """Return the blob that is the image, and its shape."""
    stated: list[tuple[str, tuple[int, ...]]] = []
    shapes = [tuple(shape.dim) for shape in net.input_shape]
    shapes += [tuple(net.input_dim[at : at + 4]) for at in range(0, len(net.input_dim), 4)]
    stated += zip(net.input, shapes, strict=False)
    for layer in layers:
        if layer.type == "Input":
            shapes = [tuple(shape.dim) for shape in layer.message.input_param.shape]
            stated += zip(layer.tops, shapes * len(layer.tops), strict=False)
        if layer.type in _DATA:
            raise InputError(
                f"{layer} reads a data set: a definition for training; the one for deployment, "
                "which states the input's shape, is expected"
            )
    if len(stated) != 1:
        raise InputError(f"states the shapes of {len(stated)} inputs, not of one")
    ((name, shape),) = stated
    if len(shape) != 4 or shape[1] not in (1, 3) or min(shape[2:]) < 1:
        raise InputError(f"its input is {shape}, not an image (1, 1 or 3, height, width)")
    return name, shape[1:]


def _execute(values: Values, layers: Sequence[LayerRecord], image: str) -> Value:
    """Append all layers; return what the one blob holds that none reads."""
    blobs = {image: Value(layer=INPUT)}
    unread: dict[str, None] = {}
    for number, record in enumerate(layers):
        if record.type == "Input" or record.type in _MEASURING:
            continue
        bottoms = record.bottoms[:1] if record.type == "SoftmaxWithLoss" else record.bottoms
        is_last = not any(set(record.tops) & set(later.bottoms) for later in layers[number + 1 :])
        try:
            output = value_of(values, record, [_value(blobs, x) for x in bottoms], is_last=is_last)
        except InputError as error:
            raise InputError(f"{record}: {error}") from None
        for name in bottoms:
            unread.pop(name, None)
        for name in record.tops:
            blobs[name] = output
            unread[name] = None
    if len(unread) != 1:
        listed = ", ".join(list(unread)[:5])
        raise InputError(f"it has {len(unread)} outputs ({listed}); a classifier has one")
    return blobs[next(iter(unread))]


def _value(blobs: dict[str, Value], name: str) -> Value:
    if name not in blobs:
        raise InputError(f"it reads {name!r:.60}, which no earlier layer writes")
    return blobs[name]


def _preprocess(nets: Sequence[NetRecord], channels: int) -> Preprocess | None:
    """Return the first preprocessing that a layer states: (pixel - mean) * scale, in B, G, R.

    A ``mean_file`` is another file, and says nothing here.
    """
    for layer in (layer for net in nets for layer in net.layers):
        if not layer.message.HasField("transform_param"):
            continue
        stated = layer.message.transform_param
        mean = list(stated.mean_value)
        if stated.mean_file or not (mean or stated.HasField("scale")):
            continue
        if len(mean) not in (0, 1, channels) or not stated.scale > 0:
            raise InputError(
                f"{layer}: {len(mean)} means and a scale of {stated.scale:g} for {channels} "
                "channels"
            )
        colour: Colour = "grey" if channels == 1 else "bgr"
        means = tuple(mean) if len(mean) == channels else tuple(mean or [0.0]) * channels
        return Preprocess(
            mean=means, std=(1 / float(str(np.float32(stated.scale))),) * channels, colour=colour
        )
    return None

"""Any published file: which format it is, and the network in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Form, Settings
from mobilette.errors import InputError
from mobilette.files import read_head
from mobilette.weights.graph import ConvNode, Graph
from mobilette.weights.imported import Imported
from mobilette.weights.keras_h5 import read_keras_h5
from mobilette.weights.keras_order import match_in_order
from mobilette.weights.keras_weights import LayerWeights
from mobilette.weights.matching import match
from mobilette.weights.named import GUESSED_WIDTHS, import_state_dict
from mobilette.weights.tensorflowjs import MODEL, read_tensorflowjs
from mobilette.weights.tensors import check_finite
from mobilette.weights.tflite import read_tflite

T = TypeVar("T")

IMAGENET_CLASSES = 1000
KERAS_RESOLUTION = 224


def import_weights(
    path: str | Path,
    *,
    model: str,
    width_mult: float = 1.0,
    resolution: int | None = None,
    form: Form | None = None,
    background: bool | None = None,
) -> Imported:
    """Read a published file of weights.

    The format is told from the content: a state dict of torchvision, timm or akamaster's ResNets
    (``.pth``, ``.safetensors``), Keras (``.h5``), TensorFlow.js (``model.json`` or its folder),
    TensorFlow Lite (``.tflite``).

    Args:
        path: the file, or the folder of a TensorFlow.js model.
        model: a name of `mobilette.list_models`.
        width_mult: the width multiplier.
        resolution: in pixels; ``None`` takes the file's.
        form: ``small`` or ``full``; ``None`` goes by the resolution.
        background: whether the first class is none and is dropped; ``None`` means: if there are
            1,001 of them.

    Raises:
        InputError: not such a file, damaged, or not this network; the message names the first
            layer or tensor that differs, and the width that would fit.
    """
    path = Path(path)
    settings = Settings(width_mult=width_mult, resolution=resolution or KERAS_RESOLUTION, form=form)
    head = b"" if path.is_dir() else read_head(path, 8)
    if path.is_dir() or path.suffix == ".json":
        if path.is_dir() and not (path / MODEL).is_file():
            raise InputError(f"{path}: a folder without {MODEL}; a file of weights is expected")
        imported = _from_graph(read_tensorflowjs(path), model, settings, resolution)
    elif head == b"\x89HDF\r\n\x1a\n":
        read = read_keras_h5(path)
        if isinstance(read, Graph):
            imported = _from_graph(read, model, settings, resolution)
        else:
            imported = _in_order(read, model, settings, str(path))
    elif head[4:] == b"TFL3":
        imported = _from_graph(read_tflite(path), model, settings, resolution)
    else:
        imported = import_state_dict(
            path, model=model, width_mult=width_mult, resolution=resolution, form=form
        )
    for name, tensor in imported.weights.items():
        check_finite(name, tensor, where=str(path))
    drop = imported.arch.num_classes == IMAGENET_CLASSES + 1 if background is None else background
    return _without_background(imported) if drop else imported


def _from_graph(graph: Graph, model: str, settings: Settings, resolution: int | None) -> Imported:
    channels, height, width = graph.shape
    if height != width or (height == 0 and resolution is None):
        raise InputError(
            f"{graph.where}: takes pictures of {width}x{height}; give --resolution"
            if height == 0
            else f"{graph.where}: takes pictures of {width}x{height}; square ones are expected"
        )
    last = next((node for node in reversed(graph.nodes) if isinstance(node, ConvNode)), None)
    if last is None:
        raise InputError(f"{graph.where}: no convolution in it")
    settings = replace(
        settings,
        resolution=height or settings.resolution,
        in_channels=channels,
        num_classes=len(last.weight),
    )
    (arch, weights, left) = _at_width(lambda arch: match(graph, arch), model, settings, graph.where)
    return Imported(
        arch=arch.with_resolution(resolution) if resolution else arch,
        weights=weights,
        preprocess=graph.preprocess,
        tensors=len(graph.tensors),
        unused=(*graph.unused, *left),
        remarks=graph.remarks,
    )


def _in_order(weights: list[LayerWeights], model: str, settings: Settings, where: str) -> Imported:
    last = [layer for layer in weights if layer.parameters]
    kernel = last[-1].parameters.get("kernel") if last else None
    if kernel is None or kernel.ndim not in (2, 4):
        raise InputError(f"{where}: ends without a classifier's kernel; is its top left out?")
    settings = replace(settings, num_classes=kernel.shape[-1])
    arch, tensors = _at_width(
        lambda arch: match_in_order(weights, arch, where=where), model, settings, where
    )
    return Imported(
        arch=arch,
        weights=tensors,
        tensors=sum(len(layer.parameters) for layer in weights),
        remarks=("no topology in the file: layers matched in order, TensorFlow's padding assumed",),
    )


def _at_width(read: Callable[[Arch], T], model: str, settings: Settings, where: str) -> T:
    """Return ``read`` of the network; if it does not fit, say which width would."""
    try:
        return read(get_arch(model, settings))
    except InputError as error:
        for width_mult in GUESSED_WIDTHS:
            try:
                read(get_arch(model, replace(settings, width_mult=width_mult)))
            except InputError:
                continue
            raise InputError(
                f"{where}: has width {width_mult:g} of {model}, not {settings.width_mult:g}; give "
                f"--width-mult {width_mult:g}"
            ) from None
        raise error


def _without_background(imported: Imported) -> Imported:
    """Drop the first logit, TensorFlow's class for "nothing of these"."""
    weights = {
        name: tensor[1:].clone() if name.startswith("head.classifier.") and tensor.ndim else tensor
        for name, tensor in imported.weights.items()
    }
    classes = imported.arch.num_classes - 1
    remark = f"class 0 of {classes + 1:,} is background and was dropped"
    return replace(
        imported,
        arch=imported.arch.with_classes(classes),
        weights=weights,
        remarks=(*imported.remarks, remark),
    )

"""Imports any published file: detects its format and reads its network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer
from mobilette.arch.rows import ConvPool, PoolLinear
from mobilette.arch.scale import Form, Resolution, Settings, size_of
from mobilette.arguments import checked
from mobilette.data.preprocess import Preprocess, Resize
from mobilette.errors import InputError
from mobilette.files import read_head
from mobilette.formats.caffe.file import SUFFIX as CAFFEMODEL
from mobilette.formats.caffe.file import read_caffe
from mobilette.formats.file_layers import FileNetwork, Weights
from mobilette.formats.imported import (
    NO_CLASSIFIER,
    TOP,
    Imported,
    as_model,
    classifier_layers,
    interpret_outputs,
    preprocess_of,
    with_blocks_of,
    with_classifier,
    with_head_of,
    without_background,
)
from mobilette.formats.keras.file import (
    CONFIG,
    MODEL,
    SAVED_MODEL,
    check_not_tensorflow,
    is_keras_archive,
    read_keras_archive,
    read_keras_h5,
    read_tensorflowjs,
)
from mobilette.formats.keras.weights import LayerWeights, match_in_order
from mobilette.formats.matching import match
from mobilette.formats.onnx.file import read_onnx
from mobilette.formats.tflite.file import read_tflite
from mobilette.formats.torch.named import import_state_dict, width_in_file
from mobilette.formats.torch.other_files import is_onnx, name_folder
from mobilette.formats.torch.state_dict import check_finite
from mobilette.model.classes import ClassLabel, read_classes
from mobilette.model.model import Model, Origin

T = TypeVar("T")

IMAGENET_CLASSES = 1000
KERAS_RESOLUTION = 224


@checked
def import_weights(
    file: str | Path,
    *,
    model: str,
    width_mult: float = 1.0,
    resolution: Resolution | None = None,
    form: Form | None = None,
    classes: str | Path | Sequence[ClassLabel] | None = None,
    preprocess: str | Preprocess | None = None,
    resize: Resize | None = None,
) -> Model:
    """Return the model in a file published by others; `Model.save` writes it as a run.

    The format is detected from the content: a state dict of torchvision, timm and others (``.pth``,
    ``.safetensors``), Keras (``.keras``, ``.h5``), TensorFlow.js (``model.json`` or its folder),
    TensorFlow Lite (``.tflite``), ONNX (``.onnx``), Caffe (``.caffemodel``, recognised by its name,
    with the ``.prototxt`` beside it). `Model.origin` records what was found.

    Args:
        file: the file, or the folder of a TensorFlow.js model.
        model: a name from `mobilette.list_models`.
        width_mult: the width multiplier.
        resolution: a side or (height, width), in pixels; ``None`` takes the file's.
        form: ``small`` or ``full``; ``None`` takes the file's or, if it states none, chooses by
            resolution.
        classes: a file of classes, or the classes; ``None`` numbers them. The first of 1,001
            outputs is background and is dropped unless 1,001 classes are given. A single output
            without a sigmoid becomes two classes if two are given.
        preprocess: a preset or a `Preprocess`; ``None`` takes the file's.
        resize: how an image becomes square, unless ``preprocess`` is a `Preprocess`; ``None``
            takes the file's way, or crops.

    Raises:
        InputError: the file is unsupported, damaged, or a different network (the message names the
            first layer or tensor that differs, and the width that would fit); its single output is
            not a probability of two classes; the number of classes differs; or the preprocessing is
            unknown.
    """
    path = Path(file)
    labels = read_classes(Path(classes)) if isinstance(classes, str | Path) else classes
    imported = _read_network(
        path,
        model,
        Settings(width_mult=width_mult, resolution=resolution or KERAS_RESOLUTION, form=form),
        resolution,
        num_classes=None if labels is None else len(labels),
    )
    count = imported.arch.num_classes
    if labels is not None and imported.has_classifier and len(labels) != count:
        given = classes if isinstance(classes, str | Path) else "classes"
        raise InputError(f"{path}: {count:,} classes, but {len(labels):,} are in {given}")
    if not isinstance(preprocess, Preprocess):
        preprocess = preprocess_of(imported, preprocess, resize=resize, where=str(path))
    origin = Origin(
        name=model, width_mult=width_mult, form=form, source=path.name, sha256=_digest(path)
    )
    return as_model(imported, preprocess=preprocess, classes=labels, origin=origin)


def _read_network(
    path: Path,
    model: str,
    settings: Settings,
    resolution: Resolution | None,
    *,
    num_classes: int | None,
) -> Imported:
    read = _read(path, resolution and min(size_of(resolution)))
    if isinstance(read, FileNetwork):
        imported = _from_layers(read, model, settings, resolution)
    elif read is not None:
        imported = _in_order(read, model, settings, str(path))
    else:
        imported = import_state_dict(
            path,
            model=model,
            width_mult=settings.width_mult,
            resolution=resolution,
            form=settings.form,
        )
    for name, tensor in imported.weights.items():
        check_finite(name, tensor, where=str(path))
    if imported.arch.num_classes == IMAGENET_CLASSES + 1 != num_classes:
        imported = without_background(imported)
    ending = read.ending if isinstance(read, FileNetwork) else "logits"
    return interpret_outputs(imported, ending, num_classes=num_classes, where=str(path))


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder in order of name."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def holds_weights(path: Path) -> bool:
    """Whether ``path`` is a file, or a folder that holds a model."""
    return path.is_file() or any((path / name).is_file() for name in (MODEL, CONFIG, SAVED_MODEL))


def _read(path: Path, resolution: int | None) -> FileNetwork | list[LayerWeights] | None:
    """Return the network, or a Keras network's weights in order; ``None`` for a state dict."""
    head = b"" if path.is_dir() else read_head(path, 8)
    check_not_tensorflow(path)
    if is_keras_archive(path):
        return read_keras_archive(path, resolution)
    if path.is_dir() or path.suffix == ".json":
        if path.is_dir() and not (path / MODEL).is_file():
            known = name_folder(path) or f"a folder without {MODEL}; a file of weights is expected"
            raise InputError(f"{path}: {known}")
        return read_tensorflowjs(path, resolution)
    if path.suffix in (CAFFEMODEL, ".prototxt"):
        return read_caffe(path)
    if head == b"\x89HDF\r\n\x1a\n":
        return read_keras_h5(path, resolution)
    if path.suffix == ".onnx" or is_onnx(head):
        return read_onnx(path, resolution)
    return read_tflite(path) if head[4:] == b"TFL3" else None


def _from_layers(
    network: FileNetwork, model: str, settings: Settings, resolution: Resolution | None
) -> Imported:
    convs = [file for file in network.layers if isinstance(file.layer, ConvLayer | LinearLayer)]
    if not convs:
        raise InputError(f"{network.where}: no convolution in the file")
    found = classifier_layers(network)
    # An averaged classifier (SqueezeNet's) is the last convolution.
    averaged = isinstance(get_arch(model, settings).head, ConvPool)
    top = bool(found) or averaged
    topped = network if top else with_classifier(network)
    last = found[-1][0] if found else convs[-1]
    settings = replace(
        settings,
        resolution=(network.shape[1], network.shape[2]),
        in_channels=network.shape[0],
        num_classes=last.layer.shape[0] if top else 1,
    )
    arch, weights, left = _fitting(
        lambda arch: match(topped, with_blocks_of(network, with_head_of(topped, arch))),
        model,
        settings,
        network.where,
        [file.layer.shape[0] for file in convs],
    )
    return Imported(
        arch=arch.with_resolution(resolution) if resolution else arch,
        weights=weights,
        preprocess=network.preprocess,
        resize=network.resize,
        has_classifier=top,
        tensors=len(network.tensors),
        unused=(*network.unused, *left),
        remarks=(*network.remarks, *(() if top else (NO_CLASSIFIER,))),
    )


def _in_order(weights: list[LayerWeights], model: str, settings: Settings, where: str) -> Imported:
    last = [layer for layer in weights if layer.parameters and layer.kind in ("", "kernel")][-1:]
    remarks = ["no topology in the file: layers matched in order, TensorFlow's padding assumed"]
    kernel = last[0].parameters.get("kernel") if last else None
    # A convolution of the backbone has a batch norm and no bias.
    top = kernel is not None and (not last[0].kind or "bias" in last[0].parameters)
    if not top:
        kernel = _classifier_of_zeros(weights, where)
        zeros = {"kernel": kernel, "bias": np.zeros(1, np.float32)}
        kind = "kernel" if weights[0].kind else ""
        weights = [*weights, LayerWeights(name=TOP, parameters=zeros, kind=kind)]
        remarks.append(NO_CLASSIFIER)
    if kernel is None or kernel.ndim not in (2, 4):
        raise InputError(f"{where}: ends without a classifier's kernel")
    settings = replace(settings, num_classes=kernel.shape[-1], form=settings.form or "full")

    def read(arch: Arch) -> tuple[Arch, dict[str, Tensor]]:
        if not top and isinstance(arch.head, PoolLinear):
            arch = replace(arch, head=replace(arch.head, hidden=(), pool=1))
        return match_in_order(weights, arch, where=where)

    kernels = [layer.parameters.get("kernel") for layer in weights]
    channels = [kernel.shape[-1] for kernel in kernels if kernel is not None and kernel.ndim]
    arch, tensors = _fitting(read, model, settings, where, channels)
    return Imported(
        arch=arch,
        weights=tensors,
        has_classifier=top,
        tensors=sum(len(layer.parameters) for layer in weights) - (0 if top else 2),
        remarks=tuple(remarks),
    )


def _classifier_of_zeros(weights: list[LayerWeights], where: str) -> Weights:
    """Return a kernel of one class for a network that ends in a batch norm."""
    shifts = [layer.parameters["beta"] for layer in weights if "beta" in layer.parameters]
    if not shifts or not shifts[-1].ndim:
        raise InputError(f"{where}: ends in neither a classifier nor a batch norm")
    return np.zeros((len(shifts[-1]), 1), np.float32)


def _fitting(
    read: Callable[[Arch], T], model: str, settings: Settings, where: str, channels: list[int]
) -> T:
    """Return ``read`` of the network, in either form if none is set, or name the width that fits.

    ``channels`` are those of the file's convolutions in order of execution.
    """
    forms: tuple[Form, ...] = ("full",) if settings.is_full else ("full", "small")
    forms = forms if settings.form is None else (settings.form,)

    def attempt(width_mult: float) -> T:
        faults: list[InputError] = []
        for form in forms:
            try:
                return read(get_arch(model, replace(settings, width_mult=width_mult, form=form)))
            except InputError as error:
                faults.append(error)
        raise faults[0]

    try:
        return attempt(settings.width_mult)
    except InputError as error:
        usual = layers(get_arch(model, replace(settings, width_mult=1.0, form=forms[0])))
        ours = [layer.shape[0] for layer in usual if isinstance(layer, ConvLayer)]
        pairs = zip(channels, ours, strict=False)
        fitting = width_in_file(model, pairs, lambda width_mult: bool(attempt(width_mult)))
        if fitting is None:
            raise
        raise InputError(
            f"{where}: has width {fitting:g} of {model}, not {settings.width_mult:g}; give "
            f"--width-mult {fitting:g}"
        ) from error

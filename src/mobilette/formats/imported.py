"""`Imported`, the result of reading a file, and its conversion to a `Model`.

A single output is the probability of the second of two classes (a sigmoid), or no classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    ActivationLayer,
    AdaptivePoolLayer,
    AnyLayer,
    ConvLayer,
    LinearLayer,
    NormLayer,
)
from mobilette.arch.rows import Activation, Block, Conv, PoolLinear, Step
from mobilette.data.preprocess import PRESETS, Preprocess, Resize, preset
from mobilette.errors import InputError
from mobilette.formats.file_builder import Builder
from mobilette.formats.file_layers import Ending, FileLayer, FileNetwork
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model, Origin, numbered_classes

CLASSIFIER = "head.classifier."
TWO = "one sigmoid output became two classes; it is the second one's probability"
NO_CLASSIFIER = "no classifier in the file: a start for 'mobilette train --from'"
TOP = "the classifier that is not there"
SEVERAL = "a sigmoid for each class: the classes are independent (multi-label)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A published network, read completely.

    Attributes:
        arch: as in the file: biases, batch norms, activations, padding, and classes and resolution
            if the file states them.
        weights: exactly the network's state dict; float32 (counters int64).
        preprocess: the preprocessing that the file states, if any.
        resize: how the file makes images square, if it does.
        multi_label: whether classes are independent (a sigmoid over several outputs).
        has_classifier: otherwise the classifier is one class of zeros, for training only.
        tensors: the number of tensors in the file.
        unused: the names of tensors in the file that the network does not use.
        remarks: what was inferred or left out, one line each, without the file's name.
    """

    arch: Arch
    weights: dict[str, Tensor]
    preprocess: Preprocess | None = None
    resize: Resize | None = None
    multi_label: bool = False
    has_classifier: bool = True
    tensors: int
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def preprocess_of(
    imported: Imported, given: str | None, *, resize: Resize | None, where: str
) -> Preprocess:
    """Return the preprocessing of an imported network.

    ``given`` is a preset for a file that does not scale images itself (``raw`` suits one that
    does); ``resize`` is how an image becomes square, by default the file's way, or a crop.
    """
    asked = None if given is None else preset(given, in_channels=imported.arch.in_channels)
    stated = imported.preprocess
    if asked is None and stated is None:
        raise InputError(
            f"{where}: does not state how images are prepared; give --preprocess "
            f"{', '.join(list(PRESETS)[:-1])} or {list(PRESETS)[-1]}"
        )
    if stated and asked and given != "raw" and not _alike(stated, asked):
        raise InputError(
            f"{where}: scales images itself (mean {stated.mean[0]:g}, std {stated.std[0]:g}), "
            f"unlike --preprocess {given}; leave that out"
        )
    chosen = stated or asked
    assert chosen is not None
    return replace(chosen, resize=resize or imported.resize or "crop")


def _alike(first: Preprocess, second: Preprocess) -> bool:
    """Whether two scalings are equal up to the rounding of a quantised input."""
    pairs = zip(first.mean + first.std, second.mean + second.std, strict=True)
    return first.colour == second.colour and all(
        abs(a - b) <= 0.01 * (a + b) + 0.5 for a, b in pairs
    )


def as_model(
    imported: Imported,
    *,
    preprocess: Preprocess,
    classes: Sequence[ClassLabel] | None = None,
    origin: Origin,
) -> Model:
    """Return the network as a `Model`; unnamed classes are numbered."""
    labels = numbered_classes(imported.arch.num_classes)
    return Model(
        arch=imported.arch,
        weights=imported.weights,
        preprocess=preprocess,
        classes=labels if classes is None or not imported.has_classifier else tuple(classes),
        multi_label=imported.multi_label,
        has_classifier=imported.has_classifier,
        origin=replace(
            origin,
            tensors=imported.tensors,
            unused=imported.unused,
            remarks=imported.remarks,
        ),
    )


def interpret_outputs(
    imported: Imported, ending: Ending, *, num_classes: int | None, where: str
) -> Imported:
    """Return the network with one logit per class.

    ``ending`` is what the file applies to the outputs of ``imported``, ``num_classes`` the number
    of classes that the user gave, if any.
    """
    if not imported.has_classifier:
        return imported
    if imported.arch.num_classes > 1:
        if ending != "sigmoid":
            return imported
        return replace(imported, multi_label=True, remarks=(*imported.remarks, SEVERAL))
    if ending == "softmax":
        raise InputError(f"{where}: a softmax over one output is always 1")
    if ending == "logits" and num_classes != 2:
        raise InputError(
            f"{where}: one output without a sigmoid: a regression, which is not supported, or the "
            "logit of the second of two classes; if it is that, name both with --classes FILE"
        )
    return _two_classes(imported, where)


def _two_classes(imported: Imported, where: str) -> Imported:
    """Return the network with logits -z/2 and z/2, whose softmax is the sigmoid of z."""
    if not isinstance(imported.arch.head, PoolLinear):
        raise InputError(
            f"{where}: one output, but not from a linear layer, so it cannot become two classes"
        )
    weights = {
        name: torch.cat([-tensor / 2, tensor / 2]) if name.startswith(CLASSIFIER) else tensor
        for name, tensor in imported.weights.items()
    }
    return replace(
        imported,
        arch=imported.arch.with_classes(2),
        weights=weights,
        remarks=(*imported.remarks, TWO),
    )


def without_background(imported: Imported) -> Imported:
    """Drop the first logit, TensorFlow's background class."""
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


def classifier_layers(network: FileNetwork) -> list[tuple[FileLayer, Activation]]:
    """Return the layers from the pooled or flattened map to the logits, if any, in order."""
    theirs = {layer.name: layer for layer in network.layers}
    found: list[tuple[FileLayer, Activation]] = []
    activation: Activation = "none"
    file = theirs.get(network.output)
    while file is not None:
        layer = file.layer
        if isinstance(layer, ActivationLayer):
            activation = layer.function
        elif isinstance(layer, LinearLayer) or _sees_one_pixel(layer):
            found.insert(0, (file, activation))
            activation = "none"
        elif not isinstance(layer, NormLayer):
            break
        file = theirs.get(layer.inputs[0])
    if file is not None and isinstance(file.layer, AdaptivePoolLayer):
        return found
    # Without an average, the first linear layer reads a flattened map.
    linear = [isinstance(file.layer, LinearLayer) for file, _ in found]
    return found[linear.index(True) :] if True in linear else []


def _sees_one_pixel(layer: AnyLayer) -> bool:
    return isinstance(layer, ConvLayer) and layer.kernel == 1 and layer.groups == 1


def with_classifier(network: FileNetwork) -> FileNetwork:
    """Return ``network``, which has no classifier, with a global pool and one class of zeros."""
    builder = Builder(network.shape)
    builder.layers = {layer.name: layer for layer in network.layers}
    last = builder.layers[network.output].layer
    is_pooled = isinstance(last, AdaptivePoolLayer)
    pooled = last.name if is_pooled else builder.average(f"{TOP}/pool", last.name)
    zeros = np.zeros((1, builder.shape_of(pooled)[0]), np.float32)
    top = builder.linear(TOP, pooled, zeros, None)
    return replace(network, layers=tuple(builder.layers.values()), output=top)


def with_head_of(network: FileNetwork, arch: Arch) -> Arch:
    """Return ``arch`` with the file's hidden layers and flattened grid."""
    found = classifier_layers(network)
    if not isinstance(arch.head, PoolLinear) or not found:
        return arch
    hidden = tuple(file.layer.shape[0] for file, _ in found[:-1])
    first = found[0][0].layer
    shapes = {layer.name: layer.layer.shape for layer in network.layers}
    source = shapes.get(first.inputs[0], network.shape)
    flattened = isinstance(first, LinearLayer) and first.in_features > source[0]
    head = replace(
        arch.head,
        hidden=hidden,
        activation=found[0][1] if hidden else arch.head.activation,
        pool=source[1] if flattened else 1,
    )
    return replace(arch, head=head)


def with_blocks_of(network: FileNetwork, arch: Arch) -> Arch:
    """Return ``arch`` with two liberties that implementations of MobileNet V2 take.

    The first block has an expansion by 1, which the paper omits, and the strides of the depthwise
    convolutions are in other places. shicai's network for Caffe has both.
    """
    convs = [file.layer for file in network.layers if isinstance(file.layer, ConvLayer)]
    theirs = [conv.stride for conv in convs if conv.is_depthwise]
    ours = {x.name: x.stride for x in layers(arch) if isinstance(x, ConvLayer) and x.is_depthwise}
    if sorted(theirs) == sorted(ours.values()):
        moved = dict(zip(ours, theirs, strict=True))
        arch = change_convs(
            arch, lambda name, conv: replace(conv, stride=moved.get(f"{name}.conv", conv.stride))
        )
    block = arch.rows[0] if arch.rows else None
    if not isinstance(block, Block) or not block.entry or len(convs) < 2:
        return arch
    depthwise, second = block.entry[0].operation, convs[1]
    if not isinstance(depthwise, Conv) or block.entry[0].name != "depthwise":
        return arch
    if (second.kernel, second.groups, second.shape[0]) != (1, 1, depthwise.channels):
        return arch
    conv = Conv(channels=depthwise.channels, activation=depthwise.activation)
    expanded = replace(block, entry=(Step(name="expand", operation=conv), *block.entry))
    return replace(arch, rows=(expanded, *arch.rows[1:]))

"""A run's weights for the constructors in ``keras.applications``, written by Keras itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, ConvLayer, LinearLayer, NormLayer
from mobilette.arch.rows import Conv
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.exporters.state_dict import differences, input_text
from mobilette.files import write_text
from mobilette.formats.file_layers import NORM
from mobilette.formats.keras.library import import_keras
from mobilette.formats.keras.weights import with_conventions
from mobilette.formats.torch.named import V3
from mobilette.model.model import Model
from mobilette.silence import silence

SMALLEST_SIDE = 32  # that the constructors accept

_TEXT = """\
# {name}, weights for Keras' own constructor

```python
import os

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

network = {build}
network.load_weights("{model}")
```

`network` takes float32 (batch, {shape}) and gives logits
(batch, {classes}), {rest}"""


class _Names(NamedTuple):
    """Keras' constructor of a network, and its names of layers.

    Attributes:
        function: the constructor.
        parts: our names to theirs; those in a row without ``rows.N.``.
        row: a layer of a row, from its part, the row's number and the next number.
        first_row: the same for the first row.
        norm: of the batch norm after a convolution.
        options: of the constructor.
    """

    function: str
    parts: Mapping[str, str]
    row: str
    first_row: str
    norm: str = "{}_bn"
    options: Mapping[str, object] = MappingProxyType({})


_V1 = {"stem": "conv1", "depthwise": "dw", "pointwise": "pw", "head.classifier": "conv_preds"}
_V2 = {"stem": "Conv1", "": "Conv_1", "head.classifier": "predictions"}
_V3 = {
    "stem": "conv",
    "squeeze_excite.reduce": "squeeze_excite_conv",
    "squeeze_excite.expand": "squeeze_excite_conv_1",
    "": "conv_1",
    "head.hidden.0": "conv_2",
    "head.classifier": "logits",
}
_V2_NORMS = {"Conv1": "bn_Conv1", "Conv_1": "Conv_1_bn"}


def _v3(function: str, **options: object) -> _Names:
    given = {**options, "include_preprocessing": False}
    return _Names(
        function, _V3, "expanded_conv_{row}_{part}", "expanded_conv_{part}", options=given
    )


NETWORKS: Mapping[str, _Names] = MappingProxyType(
    {
        "mobilenet_v1": _Names("MobileNet", _V1, "conv_{part}_{next}", "conv_{part}_{next}"),
        "mobilenet_v2": _Names(
            "MobileNetV2", _V2, "block_{row}_{part}", "expanded_conv_{part}", norm="{}_BN"
        ),
        "mobilenet_v3_large": _v3("MobileNetV3Large"),
        "mobilenet_v3_small": _v3("MobileNetV3Small"),
        "mobilenet_v3_large_minimalistic": _v3("MobileNetV3Large", minimalistic=True),
        "mobilenet_v3_small_minimalistic": _v3("MobileNetV3Small", minimalistic=True),
    }
)


def write_keras_weights(model: Model, folder: Path, name: str) -> None:
    """Write ``name``, a ``.weights.h5`` file, and the README of ``model`` to ``folder``.

    Raises:
        InputError: Keras is missing, or has no constructor of the network.
    """
    arch = model.arch
    options = constructor_options(arch, width_mult=model.origin.width_mult)
    function = NETWORKS[arch.name].function
    keras = import_keras("--names keras")
    with silence():
        network = getattr(keras.applications, function)(**options)
        _fill(network, model)
        network.save_weights(folder / name)
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    text = _TEXT.format(
        name=arch.name,
        build=f"keras.applications.{function}({given})",
        model=name,
        shape=", ".join(map(str, network.input_shape[1:])),
        classes=arch.num_classes,
        rest=input_text(model),
    )
    write_text(folder / "README.md", text)


def constructor_options(arch: Arch, *, width_mult: float | None = None) -> dict[str, object]:
    """Return the options of Keras' constructor with which it answers as ``arch``, in logits.

    ``width_mult`` is 1.0 by default.

    Raises:
        InputError: Keras builds no such network; the message says how it differs.
    """
    if arch.name not in NETWORKS:
        raise InputError(f"keras has no {arch.name}; it has {', '.join(NETWORKS)}")
    settings = Settings(
        width_mult=width_mult or 1.0,
        num_classes=arch.num_classes,
        in_channels=arch.in_channels,
        resolution=arch.resolution,
        form="full",
    )
    in_v3 = arch.name in V3  # whose stem Keras never narrows
    made = V3[arch.name](settings, full_stem=True) if in_v3 else get_arch(arch.name, settings)
    made, ours = with_conventions(made), change_convs(arch, _plain)
    # Momentum and dropout matter in training only.
    head = replace(made.head, dropout=arch.head.dropout)
    found = _odd_maps(arch) if arch.name == "mobilenet_v1" else []
    if replace(made, norm_momentum=arch.norm_momentum, head=head) != ours:
        found = differences(ours, made)
    height, width = arch.size
    if min(height, width) < SMALLEST_SIDE:
        found.append(f"images of {height}x{width}; sides of {SMALLEST_SIDE} or more are needed")
    if found:
        raise InputError(
            f"keras cannot build this {arch.name}; {found[0]}; --names mobilette keeps it as it is"
        )
    return {
        "input_shape": (height, width, arch.in_channels),
        "alpha": settings.width_mult,
        **NETWORKS[arch.name].options,
        "weights": None,
        "classes": arch.num_classes,
        "classifier_activation": None,
    }


def _plain(name: str, conv: Conv) -> Conv:
    # With stride 1 both paddings are the same.
    same = conv.stride == 1 and conv.padding == "tf_same"
    return replace(conv, padding="symmetric") if same else conv


def _odd_maps(arch: Arch) -> list[str]:
    """Return where Keras' V1 pads otherwise: it adds one zero after a map of odd sides, too."""
    shapes = {INPUT: (), **{layer.name: layer.shape for layer in layers(arch)}}
    found = []
    for layer in layers(arch):
        _, *sides = shapes[layer.inputs[0]] or (0,)
        if isinstance(layer, ConvLayer) and layer.stride > 1 and any(side % 2 for side in sides):
            found.append(f"it pads the {'x'.join(map(str, sides))} map of {layer.name} otherwise")
    return found


def _fill(network: Any, model: Model) -> None:
    """Give the layers of Keras' ``network`` the weights of ``model``."""
    names, filled = NETWORKS[model.arch.name], []
    for layer in layers(model.arch):
        if not isinstance(layer, ConvLayer | LinearLayer | NormLayer):
            continue
        theirs = network.get_layer(_their_name(layer, names))
        if isinstance(layer, NormLayer):
            arrays = [model.weights[f"{layer.name}.{part}"].numpy() for part in NORM]
        else:
            weight = model.weights[f"{layer.name}.weight"].numpy()
            depthwise = isinstance(layer, ConvLayer) and layer.is_depthwise
            order = (1, 0) if weight.ndim == 2 else (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
            weight, shape = weight.transpose(order), tuple(theirs.weights[0].shape)
            # Keras may have a 1x1 convolution for our linear layer.
            if shape[-weight.ndim :] != weight.shape:
                raise InputError(
                    f"keras cannot build this {model.arch.name}; {layer.name} has {shape[-2]} "
                    f"inputs and {shape[-1]} outputs there, not {weight.shape[-2]} and "
                    f"{weight.shape[-1]}; --names mobilette keeps it as it is"
                )
            arrays = [weight.reshape(shape)]
            if (bias := model.weights.get(f"{layer.name}.bias")) is not None:
                arrays.append(bias.numpy())
        theirs.set_weights(arrays)
        filled.append(theirs.name)
    assert sorted(filled) == sorted(layer.name for layer in network.layers if layer.weights)


def _their_name(layer: ConvLayer | LinearLayer | NormLayer, names: _Names) -> str:
    """Return Keras' name of one of our layers."""
    ours = re.sub(r"\.(conv|linear|norm)$", "", layer.name)
    theirs = names.parts.get(ours, "")
    if ours.startswith("rows."):
        _, row, part = (*ours.split(".", 2), "")[:3]
        theirs = names.parts.get(part, part)
        if part:
            pattern = names.first_row if row == "0" else names.row
            theirs = pattern.format(part=theirs, row=row, next=int(row) + 1)
    if not isinstance(layer, NormLayer):
        return theirs
    return _V2_NORMS.get(theirs) or names.norm.format(theirs)

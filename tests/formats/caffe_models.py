"""Caffe files of networks, in the layouts in which published ones are written.

The definitions are text made here, the weights protobuf messages; OpenCV reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
)
from mobilette.arch.rows import Block, Conv, Step
from mobilette.arch.scale import Settings
from mobilette.formats.caffe.schema import messages
from mobilette.formats.importing import import_weights
from mobilette.model.model import Model
from mobilette.nn.network import Network

_OLD = {
    "Convolution": "CONVOLUTION",
    "InnerProduct": "INNER_PRODUCT",
    "Pooling": "POOLING",
    "ReLU": "RELU",
    "Softmax": "SOFTMAX",
    "Dropout": "DROPOUT",
    "Concat": "CONCAT",
}


@dataclass
class Caffe:
    """A definition and its weights; `layer` appends one.

    Attributes:
        in_place: whether norms, scales and activations write the blob that they read.
        old: whether layers are as before 2015 (``layers``, types in capitals, shapes of four).
    """

    in_place: bool = True
    old: bool = False
    text: list[str] = field(default_factory=list)
    net: Any = field(default_factory=lambda: messages()["NetParameter"]())

    def layer(
        self, name: str, kind: str, bottoms: list[str], top: str, parameters: str = "", *blobs: Any
    ) -> str:
        lines = [f'name: "{name}"', f"type: {_OLD[kind]}" if self.old else f'type: "{kind}"']
        lines += [f'bottom: "{bottom}"' for bottom in bottoms] + [f'top: "{top}"', parameters]
        self.text.append(f"{'layers' if self.old else 'layer'} {{ {' '.join(lines)} }}")
        stored = (self.net.layers if self.old else self.net.layer).add(name=name)
        stored.type = _number(_OLD[kind]) if self.old else kind
        for blob in blobs:
            array = np.asarray(blob, np.float32)
            self.add_blob(stored, array)
        return top

    def add_blob(self, stored: Any, array: NDArray[np.float32]) -> None:
        blob = stored.blobs.add()
        blob.data.extend(array.ravel().tolist())
        if self.old:
            shape = (1,) * (4 - array.ndim) + array.shape
            blob.num, blob.channels, blob.height, blob.width = shape
        else:
            blob.shape.dim.extend(array.shape)

    def write(self, folder: Path, stem: str = "net", definition: str = "deploy") -> Path:
        (folder / f"{definition}.prototxt").write_text("\n".join(self.text), encoding="utf-8")
        path = folder / f"{stem}.caffemodel"
        path.write_bytes(self.net.SerializeToString())
        return path


def _number(kind: str) -> int:
    enum = messages()["V1LayerParameter"].DESCRIPTOR.fields_by_name["type"].enum_type
    return int(enum.values_by_name[kind].number)


def caffe_of(
    arch: Arch,
    weights: Mapping[str, Tensor],
    *,
    in_place: bool = True,
    old: bool = False,
    input_layer: bool = True,
    depthwise: str = "Convolution",
    linear: str = "InnerProduct",
    transform: str = "",
) -> Caffe:
    """Return ``arch`` with ``weights`` as Caffe files."""
    made = Caffe(in_place=in_place, old=old)
    sides = (1, *arch.shape)
    dims = " ".join(f"dim: {side}" for side in sides)
    if input_layer:
        made.layer(
            "data", "Input", [], "data", f"input_param {{ shape: {{ {dims} }} }} {transform}"
        )
    else:
        made.text.append('name: "NET" # a comment\ninput: "data"')
        made.text += [f"input_dim: {side}" for side in sides]
    blobs = {INPUT: "data"}
    numbers = {name: tensor.numpy() for name, tensor in weights.items()}
    writer = _Writer(made, numbers, arch.norm_epsilon, depthwise, linear)
    for layer in layers(arch):
        blobs[layer.name] = writer.write(layer, [blobs[name] for name in layer.inputs])
    last = blobs[layers(arch)[-1].name]
    made.layer("prob", "Softmax", [last], "prob")
    return made


@dataclass
class _Writer:
    made: Caffe
    numbers: Mapping[str, NDArray[np.float32]]
    epsilon: float
    depthwise: str
    linear: str

    def write(self, layer: AnyLayer, bottoms: list[str]) -> str:
        name, made = layer.name.replace(".", "/"), self.made
        match layer:
            case ConvLayer():
                kind = self.depthwise if layer.is_depthwise else "Convolution"
                pad = layer.pads(0 if layer.padding == "valid" else 8)[0]
                return made.layer(
                    name,
                    kind,
                    bottoms,
                    name,
                    ("blobs_lr: 1" if made.old else "param { lr_mult: 1 }")
                    + f" convolution_param {{ "
                    f"num_output: {layer.shape[0]} bias_term: {str(layer.bias).lower()} pad: {pad} "
                    f"kernel_size: {layer.kernel} group: {layer.groups} stride: {layer.stride} "
                    'weight_filler { type: "msra" } engine: CAFFE }',
                    *self.tensors(layer.name),
                )
            case NormLayer():
                top = bottoms[0] if made.in_place else name
                mean, variance = (
                    self.numbers[f"{layer.name}.running_{x}"] for x in ("mean", "var")
                )
                factor = 999.98236
                made.layer(
                    f"{name}/bn",
                    "BatchNorm",
                    bottoms,
                    top,
                    f"batch_norm_param {{ use_global_stats: true eps: {self.epsilon:g} }}",
                    mean * factor,
                    variance * factor,
                    [factor],
                )
                scale = "scale_param { bias_term: true }"
                return made.layer(
                    f"{name}/scale", "Scale", [top], top, scale, *self.tensors(layer.name)
                )
            case ActivationLayer():
                kind = {"relu": "ReLU", "relu6": "ReLU6"}[layer.function]
                return made.layer(name, kind, bottoms, bottoms[0] if made.in_place else name)
            case PoolLayer():
                parameters = (
                    f"pool: {'MAX' if layer.function == 'max' else 'AVE'} "
                    f"kernel_size: {layer.kernel} stride: {layer.stride} pad: {layer.padding}"
                )
                return made.layer(
                    name, "Pooling", bottoms, name, f"pooling_param {{ {parameters} }}"
                )
            case AdaptivePoolLayer():
                if layer.shape[1] > 1:
                    return bottoms[0]  # VGG: the map is as large as the grid
                parameters = "pooling_param { pool: AVE global_pooling: true }"
                return made.layer(name, "Pooling", bottoms, name, parameters)
            case LinearLayer():
                return self.write_linear(layer, name, bottoms)
            case AddLayer():
                return made.layer(name, "Eltwise", bottoms, name)
            case ConcatLayer():
                return made.layer(name, "Concat", bottoms, name)
            case FlattenLayer():
                return bottoms[0]
        raise AssertionError(layer)

    def write_linear(self, layer: LinearLayer, name: str, bottoms: list[str]) -> str:
        weight, *bias = self.tensors(layer.name)
        out = layer.shape[0]
        self.made.layer(f"{name}/drop", "Dropout", bottoms, bottoms[0])
        if self.linear == "InnerProduct":
            parameters = f"inner_product_param {{ num_output: {out} }}"
        else:
            parameters = f"convolution_param {{ num_output: {out} kernel_size: 1 }}"
            weight = weight[:, :, None, None]
        return self.made.layer(name, self.linear, bottoms, name, parameters, weight, *bias)

    def tensors(self, name: str) -> list[NDArray[np.float32]]:
        names = (f"{name}.weight", f"{name}.bias")
        return [self.numbers[name] for name in names if name in self.numbers]


def with_expansion(arch: Arch) -> Arch:
    """Return V2 with an expansion by 1 in its first block, as shicai's."""
    block = arch.rows[0]
    assert isinstance(block, Block)
    depthwise = block.entry[0].operation
    assert isinstance(depthwise, Conv)
    expand = Step(name="expand", operation=Conv(channels=depthwise.channels, activation="relu6"))
    return replace(arch, rows=(replace(block, entry=(expand, *block.entry)), *arch.rows[1:]))


def small(name: str = "mobilenet_v1", **options: Any) -> Caffe:
    """Return a network at an eighth of its width, for 32x32 pixels, as Caffe's files."""
    settings = Settings(num_classes=10, width_mult=0.125, resolution=32, form="full")
    arch = get_arch(name, settings)
    return caffe_of(arch, Network(arch).state_dict(), **options)


def read(path: Path, *, model: str = "mobilenet_v1", preprocess: str | None = "caffe") -> Model:
    """Return the network of `small` from its files."""
    return import_weights(path, model=model, width_mult=0.125, preprocess=preprocess)


def whole_caffemodel(files: Caffe) -> Caffe:
    """Return ``files`` with the definition in the weights' file too."""
    net = messages()["NetParameter"]()
    text_format.Parse("\n".join(files.text), net, allow_unknown_field=True)
    for layer, stored in zip(net.layer, files.net.layer, strict=True):
        layer.blobs.extend(stored.blobs)
    return Caffe(text=files.text, net=net)


TWO_GB = 2**31


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def delimited(number: int, content: bytes, length: int | None = None) -> bytes:
    """Return field ``number`` with ``content``, which claims to have ``length`` bytes."""
    return varint(number << 3 | 2) + varint(len(content) if length is None else length) + content

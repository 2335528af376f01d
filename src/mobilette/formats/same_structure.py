"""Checks that two networks differ only in width."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import AnyLayer, ConvLayer, LinearLayer, NormLayer
from mobilette.arch.rows import PoolLinear
from mobilette.errors import InputError, nearest
from mobilette.nn.network import build_empty


def check_same_structure(source: Arch, target: Arch) -> None:
    """Raise `InputError` unless weights of ``source`` can be sliced to ``target``.

    Strides, resolution, padding and activations may differ; weights do not depend on them.
    """
    names = f"{target.name} cannot take weights of {source.name}"
    if source.in_channels != target.in_channels:
        raise InputError(
            f"{names}: {target.in_channels} input channels, the weights have {source.in_channels}"
        )
    if source.num_classes != target.num_classes:
        raise InputError(
            f"{names}: {target.num_classes} classes, the weights have {source.num_classes}"
        )
    if len(source.rows) != len(target.rows):
        raise InputError(
            f"{names}: {len(target.rows)} rows, the weights have {len(source.rows)} (the small "
            "form of some networks leaves rows out: give both the same form)"
        )
    mine, theirs = _with_weights(source), _with_weights(target)
    for name in [*theirs, *mine]:
        if name not in mine:
            raise InputError(f"{names}: they have no layer {name}{nearest(name, mine)}")
        if name not in theirs:
            raise InputError(f"{names}: it has no layer {name}{nearest(name, theirs)}")
        wanted, given = _kind(theirs[name]), _kind(mine[name])
        if wanted != given:
            raise InputError(f"{names}: {name} is {wanted}, in the weights {given}")
    if _pool(source) != _pool(target):
        raise InputError(
            f"{names}: its head reads {_pool(target)}x{_pool(target)} pixels, in the weights "
            f"{_pool(source)}x{_pool(source)}"
        )
    for name, layer in theirs.items():
        if layer.shape[0] > mine[name].shape[0]:
            raise InputError(
                f"{names}: {name} has {layer.shape[0]} channels, the weights have "
                f"{mine[name].shape[0]}: a network can be cut to a smaller width, not a larger one"
            )


def check_weights(arch: Arch, weights: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless ``weights`` are a state dict of ``arch``."""
    expected = build_empty(arch).state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise InputError(f"weights of {arch.name}: {name} is missing")
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"weights of {arch.name}: {name} is {tuple(weights[name].shape)}, "
                f"not {tuple(tensor.shape)}"
            )
    for name in weights:
        if name not in expected:
            raise InputError(f"weights of {arch.name}: it has no {name}{nearest(name, expected)}")


def _with_weights(arch: Arch) -> dict[str, AnyLayer]:
    return {
        layer.name: layer
        for layer in layers(arch)
        if isinstance(layer, ConvLayer | LinearLayer | NormLayer)
    }


def _kind(layer: AnyLayer) -> str:
    """Describe a layer apart from its width."""
    if isinstance(layer, LinearLayer):
        return "a linear layer"
    if not isinstance(layer, ConvLayer):
        return "a batch norm"
    size = f"{layer.kernel}x{layer.kernel}"
    bias = " with bias" if layer.bias else ""
    if layer.is_depthwise:
        return f"a depthwise {size} convolution{bias}"
    groups = f" in {layer.groups} groups" if layer.groups > 1 else ""
    return f"a {size} convolution{groups}{bias}"


def _pool(arch: Arch) -> int:
    return arch.head.pool if isinstance(arch.head, PoolLinear) else 1

"""Layers of an int8 network that stay in float: the ones named, and what follows them."""

from __future__ import annotations

from collections.abc import Collection, Set

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer
from mobilette.errors import InputError, nearest


def check_float_layers(arch: Arch, names: Set[str]) -> None:
    """Raise `InputError` unless ``names`` are convolutions and linear layers of ``arch``."""
    known = weight_layers(arch)
    for name in sorted(names - set(known)):
        raise InputError(
            f"float layer {name!r} is not a convolution or linear layer of {arch.name}, which "
            f"has {known[0]} to {known[-1]}{nearest(name, known)}"
        )


def weight_layers(arch: Arch) -> tuple[str, ...]:
    """Return the names of the convolutions and linear layers, in execution order."""
    return tuple(layer.name for layer in layers(arch) if isinstance(layer, ConvLayer | LinearLayer))


def in_float(arch: Arch, names: Set[str]) -> frozenset[str]:
    """Return all float layers: ``names``, and weightless layers that read only float layers.

    The normalisation follows the layer that reads it.
    """
    found: set[str] = set()
    for layer in layers(arch):
        if isinstance(layer, ConvLayer | LinearLayer):
            follows = layer.name in names
        else:
            follows = found.issuperset(layer.inputs)
        if follows:
            found.add(layer.name)
    if "stem.conv" in found:
        found.add("normalise")
    return frozenset(found)


def is_part_of(node: str, names: Collection[str]) -> bool:
    """Whether ``node`` is one of the layers ``names``, or part of one."""
    steps = node.split(".")
    return any(".".join(steps[:count]) in names for count in range(1, len(steps) + 1))


def answers_in_float(arch: Arch, names: Set[str]) -> bool:
    """Whether the logits are in float if the layers ``names`` are."""
    return layers(arch)[-1].name in in_float(arch, names)

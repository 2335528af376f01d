"""Names of networks, and from a name to an `Arch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.families import (
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    shufflenet_v1,
    shufflenet_v2,
    squeezenet,
    vgg,
)
from mobilette.arch.scale import Settings
from mobilette.arguments import checked
from mobilette.errors import InputError, nearest, shown

FAMILIES: Mapping[str, Mapping[str, Callable[[Settings], Arch]]] = MappingProxyType(
    {
        "MobileNet V1": mobilenet_v1.VARIANTS,
        "MobileNet V2": mobilenet_v2.VARIANTS,
        "MobileNet V3": mobilenet_v3.VARIANTS,
        "SqueezeNet": squeezenet.VARIANTS,
        "ShuffleNet V1": shufflenet_v1.VARIANTS,
        "ShuffleNet V2": shufflenet_v2.VARIANTS,
        "ResNet": resnet.IMAGENET_VARIANTS,
        "ResNet for CIFAR": resnet.CIFAR_VARIANTS,
        "VGG": vgg.VARIANTS,
    }
)

# torchvision has the width in the name.
ALIASES = MappingProxyType(
    {
        "shufflenet_v2_x0_5": ("shufflenet_v2", 0.5),
        "shufflenet_v2_x1_0": ("shufflenet_v2", 1.0),
        "shufflenet_v2_x1_5": ("shufflenet_v2", 1.5),
        "shufflenet_v2_x2_0": ("shufflenet_v2", 2.0),
    }
)


@checked
def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all networks that match a shell ``pattern`` or contain it as text."""
    names = [name for variants in FAMILIES.values() for name in variants]
    if any(sign in pattern for sign in "*?["):
        return [name for name in names if fnmatchcase(name, pattern)]
    return [name for name in names if pattern in name]


def family_of(name: str) -> str:
    """Return the family that the network called ``name`` belongs to."""
    return next(family for family, variants in FAMILIES.items() if name in variants)


def get_arch(name: str, settings: Settings | None = None) -> Arch:
    """Return the `Arch` of the network called ``name``; torchvision's spellings are known too.

    Raises:
        InputError: no network has that name; the nearest is offered.
    """
    settings = settings or Settings()
    if name in ALIASES:
        known, width = ALIASES[name]
        if settings.width_mult not in (1.0, width):
            raise InputError(f"{name} has width {width:g}; for another width use {known}")
        return get_arch(known, replace(settings, width_mult=width))
    for variants in FAMILIES.values():
        if name in variants:
            return variants[name](settings)
    raise InputError(
        f"no network is called {shown(name)}{nearest(name, list_models())} "
        "('mobilette models' lists all)"
    )

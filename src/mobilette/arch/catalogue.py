"""Names of networks, and from a name to an `Arch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.families.mobilenet_v1 import (
    mobilenet_v1,
    mobilenet_v1_full_conv,
    mobilenet_v1_shallow,
)
from mobilette.arch.families.mobilenet_v2 import mobilenet_v2, mobilenet_v2_110d, mobilenet_v2_120d
from mobilette.arch.families.mobilenet_v3 import (
    mobilenet_v3_large,
    mobilenet_v3_large_minimalistic,
    mobilenet_v3_small,
    mobilenet_v3_small_minimalistic,
)
from mobilette.arch.families.resnet import CIFAR_VARIANTS, IMAGENET_VARIANTS
from mobilette.arch.families.shufflenet_v1 import VARIANTS as SHUFFLENET_V1_VARIANTS
from mobilette.arch.families.shufflenet_v2 import shufflenet_v2
from mobilette.arch.families.squeezenet import (
    squeezenet1_0,
    squeezenet1_0_bn,
    squeezenet1_1,
    squeezenet1_1_bn,
)
from mobilette.arch.families.vgg import VARIANTS as VGG_VARIANTS
from mobilette.arch.scale import Settings
from mobilette.arguments import checked
from mobilette.errors import InputError, nearest, shown

FAMILIES: Mapping[str, Mapping[str, Callable[[Settings], Arch]]] = MappingProxyType(
    {
        "MobileNet V1": {
            "mobilenet_v1": mobilenet_v1,
            "mobilenet_v1_shallow": mobilenet_v1_shallow,
            "mobilenet_v1_full_conv": mobilenet_v1_full_conv,
        },
        "MobileNet V2": {
            "mobilenet_v2": mobilenet_v2,
            "mobilenet_v2_110d": mobilenet_v2_110d,
            "mobilenet_v2_120d": mobilenet_v2_120d,
        },
        "MobileNet V3": {
            "mobilenet_v3_large": mobilenet_v3_large,
            "mobilenet_v3_small": mobilenet_v3_small,
            "mobilenet_v3_large_minimalistic": mobilenet_v3_large_minimalistic,
            "mobilenet_v3_small_minimalistic": mobilenet_v3_small_minimalistic,
        },
        "SqueezeNet": {
            "squeezenet1_0": squeezenet1_0,
            "squeezenet1_0_bn": squeezenet1_0_bn,
            "squeezenet1_1": squeezenet1_1,
            "squeezenet1_1_bn": squeezenet1_1_bn,
        },
        "ShuffleNet V1": SHUFFLENET_V1_VARIANTS,
        "ShuffleNet V2": {"shufflenet_v2": shufflenet_v2},
        "ResNet": IMAGENET_VARIANTS,
        "ResNet for CIFAR": CIFAR_VARIANTS,
        "VGG": VGG_VARIANTS,
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
            raise InputError(f"{name} has width {width:g}; for another one take {known}")
        return get_arch(known, replace(settings, width_mult=width))
    for variants in FAMILIES.values():
        if name in variants:
            return variants[name](settings)
    raise InputError(
        f"no network is called {shown(name)}{nearest(name, list_models())} "
        "('mobilette models' lists all)"
    )

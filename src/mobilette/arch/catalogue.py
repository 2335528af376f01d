"""Names of networks, and from a name to an `Arch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.mobilenet_v1 import mobilenet_v1, mobilenet_v1_shallow
from mobilette.arch.mobilenet_v2 import mobilenet_v2
from mobilette.arch.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from mobilette.arch.scale import Settings
from mobilette.errors import InputError, nearest

FAMILIES: Mapping[str, Mapping[str, Callable[[Settings], Arch]]] = MappingProxyType(
    {
        "MobileNet V1": {
            "mobilenet_v1": mobilenet_v1,
            "mobilenet_v1_shallow": mobilenet_v1_shallow,
        },
        "MobileNet V2": {"mobilenet_v2": mobilenet_v2},
        "MobileNet V3": {
            "mobilenet_v3_large": mobilenet_v3_large,
            "mobilenet_v3_small": mobilenet_v3_small,
        },
    }
)


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
    """Return the `Arch` of the network called ``name``.

    Raises:
        InputError: no network has that name; the nearest is offered.
    """
    for variants in FAMILIES.values():
        if name in variants:
            return variants[name](settings or Settings())
    raise InputError(
        f"no network is called {name!r}{nearest(name, list_models())} "
        "('mobilette models' lists all)"
    )

"""The network names, and `Arch` by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mobilette.arch.arch import Arch
from mobilette.arch.families import (
    efficientnet_lite,
    fbnet,
    ghostnet,
    lcnet,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
    reparameterised,
    resnet,
    shufflenet_v1,
    shufflenet_v2,
    squeezenet,
    vgg,
)
from mobilette.arch.layers import layers
from mobilette.arch.scale import Form, Resolution, Settings
from mobilette.arguments import checked
from mobilette.errors import InputError, nearest, shown
from mobilette.files import read_record

FAMILIES: Mapping[str, Mapping[str, Callable[[Settings], Arch]]] = MappingProxyType(
    {
        "MobileNet V1": mobilenet_v1.VARIANTS,
        "MobileNet V2": mobilenet_v2.VARIANTS,
        "MobileNet V3": mobilenet_v3.VARIANTS,
        "MobileNet V4": mobilenet_v4.VARIANTS,
        "MnasNet": mnasnet.VARIANTS,
        "FBNet": fbnet.VARIANTS,
        "EfficientNet-Lite": efficientnet_lite.VARIANTS,
        "PP-LCNet": lcnet.VARIANTS,
        "GhostNet": ghostnet.VARIANTS,
        "Re-parameterised": reparameterised.VARIANTS,
        "SqueezeNet": squeezenet.VARIANTS,
        "ShuffleNet V1": shufflenet_v1.VARIANTS,
        "ShuffleNet V2": shufflenet_v2.VARIANTS,
        "ResNet": resnet.IMAGENET_VARIANTS,
        "ResNet for CIFAR": resnet.CIFAR_VARIANTS,
        "VGG": vgg.VARIANTS,
    }
)

JSON = ".json"
# Names in other libraries that are not ours in another spelling.
ALIASES = MappingProxyType(
    {
        "MobileNet": "mobilenet_v1",  # Keras
        "semnasnet": "mnasnet_a1",  # timm, as those below
        "lcnet": "pp_lcnet",
        "spnasnet": "single_path_nas",
    }
)
MOST_NAMED = 6  # networks in an error
# With a width, as timm and torchvision write it: the paper's MnasNet is A1.
_WITH_WIDTH = {"mnasnet": "mnasnet_b1"}
_WIDTH_SUFFIX = re.compile(r"(.+?)_?(?:x?(\d)_(\d\d?)|(\d)(\d\d))", re.ASCII)


@checked
def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all networks that match a shell ``pattern`` or contain it as text."""
    names = [name for variants in FAMILIES.values() for name in variants]
    if any(sign in pattern for sign in "*?["):
        return [name for name in names if fnmatchcase(name, pattern)]
    return [name for name in names if pattern in name]


def family_of(name: str) -> str:
    """Return the family of the network called ``name``."""
    return next(family for family, variants in FAMILIES.items() if name in variants)


def resolve_name(name: str, width_mult: float | None = None) -> tuple[str, float | None]:
    """Return a network's catalogue name, and the width multiplier.

    Case and underscores do not matter, and the name may end in the width, which covers the names of
    timm (``mobilenetv3_small_075``), torchvision (``shufflenet_v2_x0_5``, ``mnasnet0_5``) and Keras
    (``MobileNetV2``); `ALIASES` are the other names. An unknown name is returned unchanged.

    Raises:
        InputError: ``name`` contains another width than ``width_mult``.
    """
    if (known := _known_name(name)) is not None:
        return known, width_mult
    match = _WIDTH_SUFFIX.fullmatch(name)
    known = (_WITH_WIDTH.get(match[1]) or _known_name(match[1])) if match is not None else None
    if match is None or known is None:
        return name, width_mult
    width = float(f"{match[2] or match[4]}.{match[3] or match[5]}")
    if width_mult not in (None, 1.0, width):
        raise InputError(f"{name} has width {width:g}; for another width use {known}")
    return known, width


def _known_name(name: str) -> str | None:
    if name in ALIASES:
        return ALIASES[name]
    return next((known for known in list_models() if _key(known) == _key(name)), None)


def _key(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")


@checked
def get_arch(
    name: str,
    settings: Settings | None = None,
    *,
    width_mult: float | None = None,
    resolution: Resolution | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    form: Form | None = None,
) -> Arch:
    """Return the `Arch` of the network called ``name``.

    Args:
        name: from `list_models`, or a timm, torchvision or Keras name (`resolve_name`); or a JSON
            file of an `Arch` (``mobilette cost NAME --json-arch``), which has its own widths and
            strides, and its own resolution, classes and channels unless others are given.
        settings: the options below as one value; options given separately override it.
        width_mult: width multiplier, 1.0 by default.
        resolution: size of the input in pixels, a side or (height, width); 224 by default.
        num_classes: number of logits, 1,000 by default.
        in_channels: channels of the input, 3 by default.
        form: ``small`` or ``full`` strides; by default ``small`` up to a shorter side of 64 pixels.

    Raises:
        InputError: the name is unknown (the message offers the nearest) or a value is out of range.
    """
    given = {
        "width_mult": width_mult,
        "resolution": resolution,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "form": form,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    own, settings = settings, replace(settings or Settings(), **changes)
    if name.endswith(JSON):
        return _read_arch(Path(name), changes if own is None else vars(settings))
    known, width = resolve_name(name, settings.width_mult)
    for variants in FAMILIES.values():
        if known in variants:
            return variants[known](replace(settings, width_mult=width or settings.width_mult))
    begun = [known for known in list_models() if _key(known).startswith(_key(name))]
    near = nearest(name, list_models()) or nearest(_key(name), list_models())
    if 1 < len(begun) <= MOST_NAMED:
        near = f"; did you mean {', '.join(begun[:-1])} or {begun[-1]}?"
    raise InputError(f"no network is called {shown(name)}{near} ('mobilette models' lists all)")


def _read_arch(path: Path, given: Mapping[str, Any]) -> Arch:
    """Return the network in a JSON file, with the resolution, classes and channels of ``given``."""
    arch = read_record(path, Arch)
    if given.get("width_mult", 1.0) != 1.0 or given.get("form") is not None:
        raise InputError(f"{path} has its own widths and strides: give no width and no form")
    arch = replace(
        arch,
        resolution=given.get("resolution", arch.resolution),
        in_channels=given.get("in_channels", arch.in_channels),
    ).with_classes(given.get("num_classes", arch.num_classes))
    try:
        layers(arch)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return arch

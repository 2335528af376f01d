"""The line of Python that builds a network in torchvision or timm, if they have it.

Names and shapes of tensors are not enough: with other strides, padding, activations or epsilons
the same weights give other answers. So a network counts as theirs only if it equals, as an `Arch`,
the one that their constructor makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import ALIASES, get_arch
from mobilette.arch.editing import change_convs
from mobilette.arch.families.mobilenet_v2 import STAGES as V2_STAGES
from mobilette.arch.layers import layers
from mobilette.arch.scale import Settings
from mobilette.errors import InputError, one_of
from mobilette.formats.torch.name_tables import Source
from mobilette.formats.torch.named import GUESSED_WIDTHS, V3
from mobilette.formats.torch.timm_names import TIMM
from mobilette.formats.torch.torchvision_names import TORCHVISION

LIBRARIES = {"torchvision": TORCHVISION, "timm": TIMM}
# torchvision takes any width for MobileNets; several may build the same network.
WIDTHS = (*GUESSED_WIDTHS, *(step / 200 for step in range(10, 401)))
# timm's constructor: our network and its width
TIMM_NETWORKS = MappingProxyType(
    {
        **{f"mobilenetv1_{w}": ("mobilenet_v1", w / 100) for w in (100, 125)},
        **{f"mobilenetv2_{w:03}": ("mobilenet_v2", w / 100) for w in (35, 50, 75, 100, 140)},
        **{name.replace("_v2", "v2"): (name, 1.0) for name in V2_STAGES if name.endswith("d")},
        **{f"mobilenetv3_large_{w:03}": ("mobilenet_v3_large", w / 100) for w in (75, 100)},
        **{f"mobilenetv3_small_{w:03}": ("mobilenet_v3_small", w / 100) for w in (50, 75, 100)},
        "tf_mobilenetv3_large_minimal_100": ("mobilenet_v3_large_minimalistic", 1.0),
        "tf_mobilenetv3_small_minimal_100": ("mobilenet_v3_small_minimalistic", 1.0),
        **{name: (name, 1.0) for name in TIMM.tables if name.startswith("resnet")},
    }
)


class Defaults(NamedTuple):
    """What timm's constructors give a network's batch norms and convolutions."""

    epsilon: float
    padding: str


PYTORCH, TENSORFLOW = Defaults(1e-5, ""), Defaults(1e-3, "same")


@dataclass(frozen=True, kw_only=True)
class Constructor:
    """A line of Python and the network that it makes."""

    code: str
    arch: Arch


def constructor(arch: Arch, library: str) -> str:
    """Return the expression that builds a network which answers as ``arch`` with its weights.

    Args:
        arch: the network.
        library: ``torchvision`` or ``timm``.

    Raises:
        InputError: no such library, or it builds no such network; the message says what differs.
    """
    source = LIBRARIES[one_of(library, LIBRARIES, "library")]
    if arch.name not in source.tables:
        known = ", ".join(source.tables)
        raise InputError(f"{library} has no {arch.name}; it has {known}{_others(arch, source)}")
    nearest: tuple[int, str] | None = None
    build = _torchvision if source is TORCHVISION else _timm
    for candidate in build(arch):
        if _answers_alike(candidate.arch, arch):
            return candidate.code
        differences = _differences(arch, candidate.arch)
        if nearest is None or len(differences) < nearest[0]:
            nearest = (len(differences), differences[0])
    what = f"; {nearest[1]}" if nearest else ""
    raise InputError(
        f"{library} builds no {arch.name} that would answer as this one{what} (mobilette's own "
        "names keep the network as it is)"
    )


def _others(arch: Arch, source: Source) -> str:
    """Return a hint to the other library if that has the network."""
    others = [x.name for x in LIBRARIES.values() if x is not source and arch.name in x.tables]
    return f"; {others[0]} has it" if others else ""


def _torchvision(arch: Arch) -> Iterator[Constructor]:
    settings = Settings(num_classes=arch.num_classes, resolution=arch.resolution, form="full")
    classes = f"num_classes={arch.num_classes}"
    if arch.name == "shufflenet_v2":
        for name in ALIASES:
            code = f"torchvision.models.{name}({classes})"
            yield Constructor(code=code, arch=get_arch(name, settings))
        return
    scales = arch.name.startswith("mobilenet")
    for width in WIDTHS if scales else (1.0,):
        scaled = replace(settings, width_mult=width)
        in_v3 = arch.name in V3
        made = V3[arch.name](scaled, torchvision=True) if in_v3 else get_arch(arch.name, scaled)
        option = "" if width == 1 else f", width_mult={width:g}"
        yield Constructor(code=f"torchvision.models.{arch.name}({classes}{option})", arch=made)


def _timm(arch: Arch) -> Iterator[Constructor]:
    for name, (ours, width) in TIMM_NETWORKS.items():
        if ours != arch.name:
            continue
        settings = Settings(
            width_mult=width,
            num_classes=arch.num_classes,
            in_channels=arch.in_channels,
            resolution=arch.resolution,
            form="full",
        )
        has_full_stem = ours in V3 and width < 0.75
        made = V3[ours](settings, full_stem=True) if has_full_stem else get_arch(ours, settings)
        options = f"num_classes={arch.num_classes}"
        if arch.in_channels != 3:
            options += f", in_chans={arch.in_channels}"
        if ours.startswith("resnet"):
            yield Constructor(code=f'timm.create_model("{name}", {options})', arch=made)
            continue
        usual = TENSORFLOW if name.startswith("tf_") else PYTORCH
        if arch.norm_epsilon != usual.epsilon:
            options += f", bn_eps={arch.norm_epsilon:g}"
        made = replace(made, norm_epsilon=arch.norm_epsilon)
        same = change_convs(made, lambda name, conv: replace(conv, padding="tf_same"))
        for padding, padded in (("", made), ("same", same)):
            option = "" if padding == usual.padding else f', pad_type="{padding}"'
            yield Constructor(code=f'timm.create_model("{name}", {options}{option})', arch=padded)


def _answers_alike(theirs: Arch, ours: Arch) -> bool:
    """Whether the two differ at most in what is for training only."""
    head = replace(theirs.head, dropout=ours.head.dropout)
    return replace(theirs, norm_momentum=ours.norm_momentum, head=head) == ours


def _differences(ours: Arch, theirs: Arch) -> list[str]:
    """Return in what ``ours`` is not ``theirs``, layer by layer, in words."""
    found = []
    if ours.in_channels != theirs.in_channels:
        found.append(f"it has {ours.in_channels} input channels, not {theirs.in_channels}")
    pairs = {layer.name: layer for layer in layers(theirs)}
    for layer in layers(ours):
        other = pairs.pop(layer.name, None)
        if type(other) is not type(layer):
            found.append(f"{layer.name} is another kind of layer there, or none")
            continue
        for field in fields(layer):
            mine, its = getattr(layer, field.name), getattr(other, field.name)
            if field.name not in ("shape", "inputs") and mine != its:
                found.append(f"{layer.name} has {field.name} {mine}, not {its}")
        if layer.shape[0] != other.shape[0]:
            found.append(f"{layer.name} has {layer.shape[0]} channels, not {other.shape[0]}")
    found += [f"{name} is missing" for name in pairs]
    if ours.norm_epsilon != theirs.norm_epsilon:
        found.append(f"batch norm epsilon is {ours.norm_epsilon:g}, not {theirs.norm_epsilon:g}")
    return found or ["the head differs"]

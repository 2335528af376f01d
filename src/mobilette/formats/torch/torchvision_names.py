"""torchvision's names of our layers (torchvision/models, version 0.15 and later)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.families.resnet import BASIC, BOTTLENECK
from mobilette.arch.families.vgg import VARIANTS as VGG
from mobilette.arch.rows import Block, Conv
from mobilette.arch.scale import Settings
from mobilette.formats.torch.name_tables import (
    Names,
    Source,
    blocks,
    last_conv,
    resnet_names,
    staged,
    unit,
)


def mobilenet_v2(arch: Arch) -> Names:
    """Names of ``mobilenetv2.py``, where the projection is not nested in a unit."""
    names = unit("stem", "features.0.0", "features.0.1")
    for number, (ours, block) in enumerate(blocks(arch), start=1):
        for place, step in enumerate(block.steps()):
            theirs = f"features.{number}.conv"
            if step.name == "project":
                names |= unit(f"{ours}.project", f"{theirs}.{place}", f"{theirs}.{place + 1}")
            else:
                theirs = f"{theirs}.{place}"
                names |= unit(f"{ours}.{step.name}", f"{theirs}.0", f"{theirs}.1")
    last = f"features.{len(arch.rows)}"
    names |= unit(last_conv(arch), f"{last}.0", f"{last}.1")
    return names | {"head.classifier": "classifier.1"}


def mobilenet_v3(arch: Arch) -> Names:
    """Names of ``mobilenetv3.py``."""
    names = unit("stem", "features.0.0", "features.0.1")
    for number, (ours, block) in enumerate(blocks(arch), start=1):
        for place, step in enumerate(block.steps()):
            theirs = f"features.{number}.block.{place}"
            if step.name == "squeeze_excite":
                names |= unit(f"{ours}.squeeze_excite.reduce", f"{theirs}.fc1")
                names |= unit(f"{ours}.squeeze_excite.expand", f"{theirs}.fc2")
            else:
                names |= unit(f"{ours}.{step.name}", f"{theirs}.0", f"{theirs}.1")
    last = f"features.{len(arch.rows)}"
    names |= unit(last_conv(arch), f"{last}.0", f"{last}.1")
    return names | {"head.hidden.0.linear": "classifier.0", "head.classifier": "classifier.3"}


def squeezenet(arch: Arch) -> Names:
    """Names of ``squeezenet.py``: numbers count the first convolution, ReLUs, pools and fires."""
    full = get_arch(arch.name, Settings()).rows
    places = [2 + number for number, row in enumerate(full) if isinstance(row, Block)]
    names = unit("stem", "features.0") | {"head.classifier.conv": "classifier.1"}
    for place, (ours, block) in zip(places, blocks(arch), strict=True):
        for step in block.steps():
            names |= unit(f"{ours}.{step.name}", f"features.{place}.{step.name}")
    return names


def shufflenet_v2(arch: Arch) -> Names:
    """Names of ``shufflenetv2.py``: numbers in branches count activations."""
    places = {
        "shortcut": ("branch1", 0),
        "shortcut_pointwise": ("branch1", 2),
        "conv1": ("branch2", 0),
        "depthwise": ("branch2", 3),
        "conv2": ("branch2", 5),
    }
    names = unit("stem", "conv1.0", "conv1.1") | {"head.classifier": "fc"}
    for ours, block, stage, unit_number in staged(arch):
        for step in block.steps():
            branch, place = places[step.name]
            theirs = f"stage{stage + 2}.{unit_number}.{branch}"
            names |= unit(f"{ours}.{step.name}", f"{theirs}.{place}", f"{theirs}.{place + 1}")
    return names | unit(last_conv(arch), "conv5.0", "conv5.1")


def vgg(arch: Arch) -> Names:
    """Names of ``vgg.py``: numbers count convolutions, batch norms, ReLUs and pools."""
    full = get_arch(arch.name, Settings())
    convs = [f"rows.{number}" for number, row in enumerate(arch.rows) if isinstance(row, Conv)]
    ours = iter(["stem", *convs])
    names: Names = {}
    place = 0
    for row in (full.stem, *full.rows):
        if not isinstance(row, Conv):
            place += 1
        elif row.norm == "batch":
            names |= unit(next(ours), f"features.{place}", f"features.{place + 1}")
            place += 3
        else:
            names |= unit(next(ours), f"features.{place}")
            place += 2
    return names | {
        "head.hidden.0.linear": "classifier.0",
        "head.hidden.1.linear": "classifier.3",
        "head.classifier": "classifier.6",
    }


TORCHVISION = Source(
    name="torchvision",
    tables=MappingProxyType(
        {
            "mobilenet_v2": mobilenet_v2,
            "mobilenet_v3_large": mobilenet_v3,
            "mobilenet_v3_small": mobilenet_v3,
            "squeezenet1_0": squeezenet,
            "squeezenet1_1": squeezenet,
            "shufflenet_v2": shufflenet_v2,
            **{f"resnet{d}": partial(resnet_names, classifier="fc") for d in BASIC | BOTTLENECK},
            **dict.fromkeys(VGG, vgg),
        }
    ),
)

# torchvision's top-level modules in the order of `nn.Sequential(*model.children())`.
CHILDREN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "features": ("features", "classifier"),
        "shufflenet": ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5", "fc"),
        "resnet": (
            *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
            *("avgpool", "fc"),
        ),
    }
)


def _numbered(arch: Arch) -> Names:
    """Return torchvision's names within a ``Sequential`` of the top-level modules."""
    names = TORCHVISION.tables[arch.name](arch)
    children = CHILDREN.get(re.split(r"\d|_", arch.name)[0], CHILDREN["features"])
    return {
        ours: f"{children.index(first)}{dot}{rest}"
        for ours, (first, dot, rest) in ((o, name.partition(".")) for o, name in names.items())
    }


NUMBERED = Source(
    name="numbered torchvision",
    tables=MappingProxyType(dict.fromkeys(TORCHVISION.tables, _numbered)),
)

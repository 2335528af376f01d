"""The layer names of torchvision, timm and other projects; each table names its source file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.families.resnet import BASIC, BOTTLENECK, CIFAR_DEPTHS
from mobilette.arch.families.vgg import VARIANTS as VGG
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, NormLayer
from mobilette.arch.rows import Block, Conv
from mobilette.arch.scale import Settings
from mobilette.formats.torch import timm_names
from mobilette.formats.torch.name_tables import (
    Names,
    Source,
    Table,
    blocks,
    last_conv,
    numbered_unit,
    squeeze_excite,
    staged,
    unit,
)


def _own(arch: Arch) -> Names:
    kinds = (ConvLayer, LinearLayer, NormLayer)
    return {layer.name: layer.name for layer in layers(arch) if isinstance(layer, kinds)}


def _resnet(arch: Arch, classifier: str = "fc") -> Names:
    """torchvision/models/resnet.py, which timm and others kept."""
    names = unit("stem", "conv1", "bn1") | {"head.classifier": classifier}
    for ours, block, stage, place in staged(arch):
        theirs = f"layer{stage + 1}.{place}"
        for step in block.steps():
            if step.name != "shortcut":
                number = step.name.removeprefix("conv")
                names |= unit(
                    f"{ours}.{step.name}", f"{theirs}.conv{number}", f"{theirs}.bn{number}"
                )
            elif isinstance(step.operation, Conv):
                names |= numbered_unit(f"{ours}.shortcut", f"{theirs}.downsample")
    return names


def _torchvision_v2(arch: Arch) -> Names:
    """torchvision/models/mobilenetv2.py, where the projection is not nested in a unit."""
    names = numbered_unit("stem", "features.0") | {"head.classifier": "classifier.1"}
    for number, (ours, block) in enumerate(blocks(arch), start=1):
        theirs = f"features.{number}.conv"
        for place, step in enumerate(block.steps()):
            if step.name == "project":
                names |= numbered_unit(f"{ours}.project", theirs, place)
            else:
                names |= numbered_unit(f"{ours}.{step.name}", f"{theirs}.{place}")
    return names | numbered_unit(last_conv(arch), f"features.{len(arch.rows)}")


def _torchvision_v3(arch: Arch) -> Names:
    """torchvision/models/mobilenetv3.py."""
    names = numbered_unit("stem", "features.0")
    for number, (ours, block) in enumerate(blocks(arch), start=1):
        for place, step in enumerate(block.steps()):
            name, theirs = f"{ours}.{step.name}", f"features.{number}.block.{place}"
            if step.name == "squeeze_excite":
                names |= squeeze_excite(name, f"{theirs}.fc1", f"{theirs}.fc2")
            else:
                names |= numbered_unit(name, theirs)
    names |= numbered_unit(last_conv(arch), f"features.{len(arch.rows)}")
    return names | {"head.hidden.0.linear": "classifier.0", "head.classifier": "classifier.3"}


def _torchvision_mnasnet(arch: Arch) -> Names:
    """torchvision/models/mnasnet.py, where the first block belongs to the stem."""
    names = numbered_unit("stem", "layers") | {"head.classifier": "classifier.1"}
    names |= numbered_unit("rows.0.depthwise", "layers", 3)
    names |= numbered_unit("rows.0.project", "layers", 6)
    for ours, block, stage, place in staged(arch):
        for number, step in enumerate(block.steps() if stage else ()):
            theirs = f"layers.{stage + 7}.{place}.layers"
            names |= numbered_unit(f"{ours}.{step.name}", theirs, 3 * number)
    return names | numbered_unit(last_conv(arch), "layers", 14)


def _squeezenet(arch: Arch) -> Names:
    """torchvision/models/squeezenet.py: counts the first convolution, ReLUs, pools and fires."""
    full = get_arch(arch.name, Settings()).rows
    places = [2 + number for number, row in enumerate(full) if isinstance(row, Block)]
    names = unit("stem", "features.0") | {"head.classifier.conv": "classifier.1"}
    for place, (ours, block) in zip(places, blocks(arch), strict=True):
        for step in block.steps():
            names |= unit(f"{ours}.{step.name}", f"features.{place}.{step.name}")
    return names


SHUFFLENET_STEPS = {
    "shortcut": ("branch1", 0),
    "shortcut_pointwise": ("branch1", 2),
    "conv1": ("branch2", 0),
    "depthwise": ("branch2", 3),
    "conv2": ("branch2", 5),
}


def _shufflenet_v2(arch: Arch) -> Names:
    """torchvision/models/shufflenetv2.py: numbers in branches count activations."""
    names = numbered_unit("stem", "conv1") | {"head.classifier": "fc"}
    for ours, block, stage, number in staged(arch):
        for step in block.steps():
            branch, place = SHUFFLENET_STEPS[step.name]
            theirs = f"stage{stage + 2}.{number}.{branch}"
            names |= numbered_unit(f"{ours}.{step.name}", theirs, place)
    return names | numbered_unit(last_conv(arch), "conv5")


def _vgg(arch: Arch) -> Names:
    """torchvision/models/vgg.py: numbers count convolutions, batch norms, ReLUs and pools."""
    full = get_arch(arch.name, Settings())
    convs = [f"rows.{number}" for number, row in enumerate(arch.rows) if isinstance(row, Conv)]
    ours = iter(["stem", *convs])
    names: Names = {}
    place = 0
    for row in (full.stem, *full.rows):
        if not isinstance(row, Conv):
            place += 1
        elif row.norm == "batch":
            names |= numbered_unit(next(ours), "features", place)
            place += 3
        else:
            names |= unit(next(ours), f"features.{place}")
            place += 2
    return names | {
        "head.hidden.0.linear": "classifier.0",
        "head.hidden.1.linear": "classifier.3",
        "head.classifier": "classifier.6",
    }


# torchvision's top-level modules in the order of `nn.Sequential(*model.children())`.
CHILDREN = {
    "mnasnet": ["layers", "classifier"],
    "shufflenet": ["conv1", "maxpool", "stage2", "stage3", "stage4", "conv5", "fc"],
    "resnet": [
        "conv1",
        "bn1",
        "relu",
        "maxpool",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
        "avgpool",
        "fc",
    ],
}


def _torchvision_in_sequential(arch: Arch) -> Names:
    """Return torchvision's names within a ``Sequential`` of the top-level modules."""
    children = CHILDREN.get(re.split(r"\d|_", arch.name)[0], ["features", "classifier"])
    names: Names = {}
    for ours, theirs in TORCHVISION.tables[arch.name](arch).items():
        first, dot, rest = theirs.partition(".")
        names[ours] = f"{children.index(first)}{dot}{rest}"
    return names


def _flat_v2(arch: Arch, last: str, classifier: str) -> Names:
    """models/imagenet/mobilenetv2.py, which counts convolutions, batch norms and activations."""
    names = numbered_unit("stem", "features.0") | {"head.classifier": classifier}
    for number, (ours, block) in enumerate(blocks(arch), start=1):
        for place, step in enumerate(block.steps()):
            names |= numbered_unit(f"{ours}.{step.name}", f"features.{number}.conv", 3 * place)
    return names | numbered_unit(last_conv(arch), last)


def _mmpretrain_v2(arch: Arch) -> Names:
    """mmpretrain/models/backbones/mobilenet_v2.py."""
    theirs = {"stem": "conv1", last_conv(arch): "conv2"}
    for ours, block, stage, place in staged(arch):
        for number, step in enumerate(block.steps()):
            theirs[f"{ours}.{step.name}"] = f"layer{stage + 1}.{place}.conv.{number}"
    return _units(theirs, "conv", "bn") | {"head.classifier": "fc"}


def _transformers_v1(arch: Arch) -> Names:
    """modeling_mobilenet_v1.py, where each half of a block is a separate layer."""
    theirs = {"stem": "conv_stem"}
    for number, (ours, _) in enumerate(blocks(arch)):
        theirs[f"{ours}.depthwise"] = f"layer.{2 * number}"
        theirs[f"{ours}.pointwise"] = f"layer.{2 * number + 1}"
    return _units(theirs, "convolution", "normalization") | {"head.classifier": "classifier"}


TRANSFORMERS_STEPS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}


def _transformers_v2(arch: Arch) -> Names:
    """modeling_mobilenet_v2.py, where the first block belongs to the stem."""
    theirs = {"stem": "conv_stem.first_conv", last_conv(arch): "conv_1x1"}
    for number, (ours, block) in enumerate(blocks(arch)):
        layer = f"layer.{number - 1}" if number else "conv_stem"
        for step in block.steps():
            theirs[f"{ours}.{step.name}"] = f"{layer}.{TRANSFORMERS_STEPS[step.name]}"
    return _units(theirs, "convolution", "normalization") | {"head.classifier": "classifier"}


def _units(theirs: Mapping[str, str], conv: str, norm: str) -> Names:
    """Return the names of units that are modules with a ``conv`` and a ``norm``."""
    names: Names = {}
    for ours, module in theirs.items():
        names |= unit(ours, f"{module}.{conv}", f"{module}.{norm}")
    return names


_V2 = "mobilenet_v2"
_RESNETS: Mapping[str, Table] = {f"resnet{depth}": _resnet for depth in BASIC | BOTTLENECK}
_V3 = ("mobilenet_v3_large", "mobilenet_v3_small")
TORCHVISION = Source(
    "torchvision",
    {
        _V2: _torchvision_v2,
        **dict.fromkeys(_V3, _torchvision_v3),
        **dict.fromkeys(("squeezenet1_0", "squeezenet1_1"), _squeezenet),
        "shufflenet_v2": _shufflenet_v2,
        "mnasnet_b1": _torchvision_mnasnet,
        **_RESNETS,
        **dict.fromkeys(VGG, _vgg),
    },
)
TIMM = Source("timm", {**timm_names.TABLES, **_RESNETS}, convolved=("conv_head",))
# github.com/akamaster/pytorch_resnet_cifar10 (resnet.py; the shortcuts without weights)
AKAMASTER = Source(
    "akamaster", {f"resnet{depth}": partial(_resnet, classifier="linear") for depth in CIFAR_DEPTHS}
)
# Hugging Face transformers, without prefixes such as ``mobilenet_v2.``
TRANSFORMERS = Source("transformers", {"mobilenet_v1": _transformers_v1, _V2: _transformers_v2})
MOBILETTE = Source("mobilette", dict.fromkeys(list_models(), _own))
SOURCES = {
    source.name: source for source in (TORCHVISION, TIMM, AKAMASTER, TRANSFORMERS, MOBILETTE)
}
MMPRETRAIN = Source("mmpretrain", {_V2: _mmpretrain_v2})
# Found in users' files; never written. tonylins' pytorch-mobilenet-v2 derives from d-li14's.
OTHER_SOURCES = (
    Source("d-li14", {_V2: partial(_flat_v2, last="conv", classifier="classifier")}),
    Source("tonylins", {_V2: partial(_flat_v2, last="features.18", classifier="classifier.1")}),
    MMPRETRAIN,
    Source("numbered torchvision", dict.fromkeys(TORCHVISION.tables, _torchvision_in_sequential)),
)

"""The layer names of torchvision, timm and other projects; each table names its source file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.families.mobilenet_v1 import TABLE as V1_TABLE
from mobilette.arch.families.mobilenet_v2 import STAGES as V2_STAGES
from mobilette.arch.families.resnet import BASIC, BOTTLENECK, CIFAR_DEPTHS
from mobilette.arch.families.shufflenet_v2 import UNITS
from mobilette.arch.families.vgg import VARIANTS as VGG
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, NormLayer
from mobilette.arch.rows import Block, Conv
from mobilette.arch.scale import Settings
from mobilette.formats.torch.name_tables import Names, Source, Table

# rows per stage, for networks whose names count stages
STAGES: Mapping[str, tuple[int, ...]] = {
    "mobilenet_v1": tuple(n for _, n, _ in V1_TABLE),
    **V2_STAGES,
    "mobilenet_v3_large": (1, 2, 3, 4, 2, 3),
    "mobilenet_v3_small": (1, 2, 3, 2, 3),
    "mobilenet_v3_large_minimalistic": (1, 2, 3, 4, 2, 3),
    "mobilenet_v3_small_minimalistic": (1, 2, 3, 2, 3),
    "shufflenet_v2": UNITS,
    **{f"resnet{depth}": stages for depth, stages in (BASIC | BOTTLENECK).items()},
    **{f"resnet{depth}": ((depth - 2) // 6,) * 3 for depth in CIFAR_DEPTHS},
}


def _unit(ours: str, conv: str, norm: str | None = None) -> Names:
    """Return the names of a convolution and its batch norm, if any."""
    names = {f"{ours}.conv": conv}
    return names if norm is None else names | {f"{ours}.norm": norm}


def _numbered_unit(ours: str, theirs: str, first: int = 0) -> Names:
    """Return the names of a convolution and batch norm in a ``Sequential``."""
    return _unit(ours, f"{theirs}.{first}", f"{theirs}.{first + 1}")


def _squeeze_excite(ours: str, reduce: str, expand: str) -> Names:
    return _unit(f"{ours}.reduce", reduce) | _unit(f"{ours}.expand", expand)


def _blocks(arch: Arch) -> Iterator[tuple[str, Block]]:
    """Yield every block with our name; skips pools, which the small form may lack."""
    for number, row in enumerate(arch.rows):
        if isinstance(row, Block):
            yield f"rows.{number}", row


def _staged(arch: Arch) -> Iterator[tuple[str, Block, int, int]]:
    """Yield our name of every block, the block, its stage and its place in it, both from 0."""
    places = [(stage, i) for stage, n in enumerate(STAGES[arch.name]) for i in range(n)]
    for (ours, block), (stage, place) in zip(_blocks(arch), places, strict=True):
        yield ours, block, stage, place


def _last_conv(arch: Arch) -> str:
    """Return our name of the convolution after the last block."""
    return f"rows.{len(arch.rows) - 1}"


def _own(arch: Arch) -> Names:
    kinds = (ConvLayer, LinearLayer, NormLayer)
    return {layer.name: layer.name for layer in layers(arch) if isinstance(layer, kinds)}


def _resnet(arch: Arch, classifier: str = "fc") -> Names:
    """torchvision/models/resnet.py, which timm and others kept."""
    names = _unit("stem", "conv1", "bn1") | {"head.classifier": classifier}
    for ours, block, stage, place in _staged(arch):
        theirs = f"layer{stage + 1}.{place}"
        for step in block.steps():
            if step.name != "shortcut":
                number = step.name.removeprefix("conv")
                names |= _unit(
                    f"{ours}.{step.name}", f"{theirs}.conv{number}", f"{theirs}.bn{number}"
                )
            elif isinstance(step.operation, Conv):
                names |= _numbered_unit(f"{ours}.shortcut", f"{theirs}.downsample")
    return names


def _torchvision_v2(arch: Arch) -> Names:
    """torchvision/models/mobilenetv2.py, where the projection is not nested in a unit."""
    names = _numbered_unit("stem", "features.0") | {"head.classifier": "classifier.1"}
    for number, (ours, block) in enumerate(_blocks(arch), start=1):
        theirs = f"features.{number}.conv"
        for place, step in enumerate(block.steps()):
            if step.name == "project":
                names |= _numbered_unit(f"{ours}.project", theirs, place)
            else:
                names |= _numbered_unit(f"{ours}.{step.name}", f"{theirs}.{place}")
    return names | _numbered_unit(_last_conv(arch), f"features.{len(arch.rows)}")


def _torchvision_v3(arch: Arch) -> Names:
    """torchvision/models/mobilenetv3.py."""
    names = _numbered_unit("stem", "features.0")
    for number, (ours, block) in enumerate(_blocks(arch), start=1):
        for place, step in enumerate(block.steps()):
            name, theirs = f"{ours}.{step.name}", f"features.{number}.block.{place}"
            if step.name == "squeeze_excite":
                names |= _squeeze_excite(name, f"{theirs}.fc1", f"{theirs}.fc2")
            else:
                names |= _numbered_unit(name, theirs)
    names |= _numbered_unit(_last_conv(arch), f"features.{len(arch.rows)}")
    return names | {"head.hidden.0.linear": "classifier.0", "head.classifier": "classifier.3"}


def _squeezenet(arch: Arch) -> Names:
    """torchvision/models/squeezenet.py: counts the first convolution, ReLUs, pools and fires."""
    full = get_arch(arch.name, Settings()).rows
    places = [2 + number for number, row in enumerate(full) if isinstance(row, Block)]
    names = _unit("stem", "features.0") | {"head.classifier.conv": "classifier.1"}
    for place, (ours, block) in zip(places, _blocks(arch), strict=True):
        for step in block.steps():
            names |= _unit(f"{ours}.{step.name}", f"features.{place}.{step.name}")
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
    names = _numbered_unit("stem", "conv1") | {"head.classifier": "fc"}
    for ours, block, stage, number in _staged(arch):
        for step in block.steps():
            branch, place = SHUFFLENET_STEPS[step.name]
            theirs = f"stage{stage + 2}.{number}.{branch}"
            names |= _numbered_unit(f"{ours}.{step.name}", theirs, place)
    return names | _numbered_unit(_last_conv(arch), "conv5")


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
            names |= _numbered_unit(next(ours), "features", place)
            place += 3
        else:
            names |= _unit(next(ours), f"features.{place}")
            place += 2
    return names | {
        "head.hidden.0.linear": "classifier.0",
        "head.hidden.1.linear": "classifier.3",
        "head.classifier": "classifier.6",
    }


# torchvision's top-level modules in the order of `nn.Sequential(*model.children())`.
CHILDREN = {
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


# timm's names of the convolutions of a block with and without expansion.
TIMM_EXPANDED = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
TIMM_SEPARABLE = {"depthwise": "conv_dw", "pointwise": "conv_pw", "project": "conv_pw"}


def _timm(arch: Arch) -> Names:
    """timm/models/efficientnet.py; V1 there has no last convolution."""
    names = _unit("stem", "conv_stem", "bn1") | {"head.classifier": "classifier"}
    for ours, block, stage, place in _staged(arch):
        theirs = f"blocks.{stage}.{place}"
        steps = [step.name for step in block.steps()]
        convs = TIMM_EXPANDED if "expand" in steps else TIMM_SEPARABLE
        for number, step in enumerate((s for s in steps if s in convs), start=1):
            names |= _unit(f"{ours}.{step}", f"{theirs}.{convs[step]}", f"{theirs}.bn{number}")
        if "squeeze_excite" in steps:
            reduce, expand = f"{theirs}.se.conv_reduce", f"{theirs}.se.conv_expand"
            names |= _squeeze_excite(f"{ours}.squeeze_excite", reduce, expand)
    has_last = arch.name in V2_STAGES
    return names | (_unit(_last_conv(arch), "conv_head", "bn2") if has_last else {})


def _timm_v3(arch: Arch) -> Names:
    """timm/models/mobilenetv3.py, where the hidden layer is a 1x1 convolution."""
    last = f"blocks.{len(STAGES[arch.name])}.0"
    names = _timm(arch) | _unit(_last_conv(arch), f"{last}.conv", f"{last}.bn1")
    return names | {"head.hidden.0.linear": "conv_head"}


def _flat_v2(arch: Arch, last: str, classifier: str) -> Names:
    """models/imagenet/mobilenetv2.py, which counts convolutions, batch norms and activations."""
    names = _numbered_unit("stem", "features.0") | {"head.classifier": classifier}
    for number, (ours, block) in enumerate(_blocks(arch), start=1):
        for place, step in enumerate(block.steps()):
            names |= _numbered_unit(f"{ours}.{step.name}", f"features.{number}.conv", 3 * place)
    return names | _numbered_unit(_last_conv(arch), last)


def _mmpretrain_v2(arch: Arch) -> Names:
    """mmpretrain/models/backbones/mobilenet_v2.py."""
    theirs = {"stem": "conv1", _last_conv(arch): "conv2"}
    for ours, block, stage, place in _staged(arch):
        for number, step in enumerate(block.steps()):
            theirs[f"{ours}.{step.name}"] = f"layer{stage + 1}.{place}.conv.{number}"
    return _units(theirs, "conv", "bn") | {"head.classifier": "fc"}


def _transformers_v1(arch: Arch) -> Names:
    """modeling_mobilenet_v1.py, where each half of a block is a separate layer."""
    theirs = {"stem": "conv_stem"}
    for number, (ours, _) in enumerate(_blocks(arch)):
        theirs[f"{ours}.depthwise"] = f"layer.{2 * number}"
        theirs[f"{ours}.pointwise"] = f"layer.{2 * number + 1}"
    return _units(theirs, "convolution", "normalization") | {"head.classifier": "classifier"}


TRANSFORMERS_STEPS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}


def _transformers_v2(arch: Arch) -> Names:
    """modeling_mobilenet_v2.py, where the first block belongs to the stem."""
    theirs = {"stem": "conv_stem.first_conv", _last_conv(arch): "conv_1x1"}
    for number, (ours, block) in enumerate(_blocks(arch)):
        layer = f"layer.{number - 1}" if number else "conv_stem"
        for step in block.steps():
            theirs[f"{ours}.{step.name}"] = f"{layer}.{TRANSFORMERS_STEPS[step.name]}"
    return _units(theirs, "convolution", "normalization") | {"head.classifier": "classifier"}


def _units(theirs: Mapping[str, str], conv: str, norm: str) -> Names:
    """Return the names of units that are modules with a ``conv`` and a ``norm``."""
    names: Names = {}
    for ours, module in theirs.items():
        names |= _unit(ours, f"{module}.{conv}", f"{module}.{norm}")
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
        **_RESNETS,
        **dict.fromkeys(VGG, _vgg),
    },
)
TIMM = Source(
    "timm",
    {
        **dict.fromkeys(("mobilenet_v1", *V2_STAGES), _timm),
        **{name: _timm_v3 for name in STAGES if name.startswith(_V3)},
        **_RESNETS,
    },
    convolved=("conv_head",),
)
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

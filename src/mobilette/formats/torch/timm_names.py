"""timm's names of our layers (timm/models: efficientnet.py, mobilenetv3.py, resnet.py)."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.families.mobilenet_v2 import STAGES as V2_STAGES
from mobilette.arch.families.resnet import BASIC, BOTTLENECK
from mobilette.formats.torch.name_tables import (
    STAGES,
    Names,
    Source,
    last_conv,
    resnet_names,
    staged,
    unit,
)

# The convolutions of a block with and without expansion.
EXPANDED = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
SEPARABLE = {"depthwise": "conv_dw", "pointwise": "conv_pw", "project": "conv_pw"}


def mobilenet_v1(arch: Arch) -> Names:
    """Names of ``efficientnet.py`` without a last convolution."""
    return _body(arch) | {"head.classifier": "classifier"}


def mobilenet_v2(arch: Arch) -> Names:
    """Names of ``efficientnet.py``."""
    head = unit(last_conv(arch), "conv_head", "bn2")
    return _body(arch) | head | {"head.classifier": "classifier"}


def mobilenet_v3(arch: Arch) -> Names:
    """Names of ``mobilenetv3.py``, where the hidden layer is a 1x1 convolution."""
    last = f"blocks.{len(STAGES[arch.name])}.0"
    names = _body(arch) | unit(last_conv(arch), f"{last}.conv", f"{last}.bn1")
    return names | {"head.hidden.0.linear": "conv_head", "head.classifier": "classifier"}


def _body(arch: Arch) -> Names:
    names = unit("stem", "conv_stem", "bn1")
    for ours, block, stage, place in staged(arch):
        theirs = f"blocks.{stage}.{place}"
        steps = [step.name for step in block.steps()]
        convs = EXPANDED if "expand" in steps else SEPARABLE
        for number, step in enumerate((s for s in steps if s in convs), start=1):
            names |= unit(f"{ours}.{step}", f"{theirs}.{convs[step]}", f"{theirs}.bn{number}")
        if "squeeze_excite" in steps:
            names |= unit(f"{ours}.squeeze_excite.reduce", f"{theirs}.se.conv_reduce")
            names |= unit(f"{ours}.squeeze_excite.expand", f"{theirs}.se.conv_expand")
    return names


TIMM = Source(
    name="timm",
    tables=MappingProxyType(
        {
            "mobilenet_v1": mobilenet_v1,
            **dict.fromkeys(V2_STAGES, mobilenet_v2),
            **{name: mobilenet_v3 for name in STAGES if name.startswith("mobilenet_v3")},
            **{f"resnet{d}": partial(resnet_names, classifier="fc") for d in BASIC | BOTTLENECK},
        }
    ),
    convolved=("conv_head",),
)

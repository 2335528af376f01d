"""timm's layer names; each table names its source file."""

from __future__ import annotations

from mobilette.arch.arch import Arch
from mobilette.arch.families.efficientnet_lite import VARIANTS as EFFICIENTNET_LITE
from mobilette.arch.families.fbnet import VARIANTS as FBNET
from mobilette.arch.families.mnasnet import VARIANTS as MNASNET
from mobilette.arch.families.mobilenet_v2 import STAGES as V2_STAGES
from mobilette.arch.families.reparameterised import CONVS
from mobilette.arch.rows import Block, Conv
from mobilette.formats.torch.name_tables import (
    STAGES,
    Names,
    Table,
    last_conv,
    numbered_unit,
    squeeze_excite,
    staged,
    unit,
)

# timm's names of the convolutions of a block with and without expansion.
TIMM_EXPANDED = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
TIMM_SEPARABLE = {"depthwise": "conv_dw", "pointwise": "conv_pw", "project": "conv_pw"}


def _timm(arch: Arch) -> Names:
    """timm/models/efficientnet.py without a last convolution."""
    names = unit("stem", "conv_stem", "bn1") | {"head.classifier": "classifier"}
    for ours, block, stage, place in staged(arch):
        theirs = f"blocks.{stage}.{place}"
        steps = [step.name for step in block.steps()]
        convs = TIMM_EXPANDED if "expand" in steps else TIMM_SEPARABLE
        for number, step in enumerate((s for s in steps if s in convs), start=1):
            names |= unit(f"{ours}.{step}", f"{theirs}.{convs[step]}", f"{theirs}.bn{number}")
        if "squeeze_excite" in steps:
            reduce, expand = f"{theirs}.se.conv_reduce", f"{theirs}.se.conv_expand"
            names |= squeeze_excite(f"{ours}.squeeze_excite", reduce, expand)
    return names


def _timm_v2(arch: Arch) -> Names:
    """timm/models/efficientnet.py with a last convolution."""
    return _timm(arch) | unit(last_conv(arch), "conv_head", "bn2")


def _timm_v3(arch: Arch) -> Names:
    """timm/models/mobilenetv3.py, where the hidden layer is a 1x1 convolution."""
    last = f"blocks.{len(STAGES[arch.name])}.0"
    names = _timm(arch) | unit(last_conv(arch), f"{last}.conv", f"{last}.bn1")
    return names | {"head.hidden.0.linear": "conv_head"}


def _timm_lcnet(arch: Arch) -> Names:
    """timm/models/mobilenetv3.py without a last convolution."""
    return _timm(arch) | {"head.hidden.0.linear": "conv_head"}


TIMM_UNIVERSAL = {
    "depthwise_start": "dw_start",
    "expand": "pw_exp",
    "depthwise": "dw_mid",
    "project": "pw_proj",
}


def _timm_v4(arch: Arch) -> Names:
    """timm/models/mobilenetv3.py with universal inverted bottlenecks."""
    names = unit("stem", "conv_stem", "bn1") | unit("head.conv", "conv_head", "norm_head")
    places = [f"blocks.{stage}.{i}" for stage, n in enumerate(STAGES[arch.name]) for i in range(n)]
    for number, (row, theirs) in enumerate(zip(arch.rows, places, strict=True)):
        ours = f"rows.{number}"
        if isinstance(row, Conv):
            names |= unit(ours, f"{theirs}.conv", f"{theirs}.bn1")
        elif theirs.startswith("blocks.0."):  # fused
            names |= unit(f"{ours}.expand", f"{theirs}.conv_exp", f"{theirs}.bn1")
            names |= unit(f"{ours}.project", f"{theirs}.conv_pwl", f"{theirs}.bn2")
        else:
            assert isinstance(row, Block)
            for step in row.steps():
                module = f"{theirs}.{TIMM_UNIVERSAL[step.name]}"
                names |= unit(f"{ours}.{step.name}", f"{module}.conv", f"{module}.bn")
    return names | {"head.classifier": "classifier"}


def _timm_ghostnet(arch: Arch) -> Names:
    """timm/models/ghostnet.py."""
    names = unit("stem", "conv_stem", "bn1")
    for ours, _, stage, place in staged(arch):
        theirs = f"blocks.{stage}.{place}"
        for ghost in ("ghost1", "ghost2"):
            names |= numbered_unit(f"{ours}.{ghost}.primary", f"{theirs}.{ghost}.primary_conv")
            names |= numbered_unit(f"{ours}.{ghost}.cheap", f"{theirs}.{ghost}.cheap_operation")
        names |= unit(f"{ours}.depthwise", f"{theirs}.conv_dw", f"{theirs}.bn_dw")
        reduce, expand = f"{theirs}.se.conv_reduce", f"{theirs}.se.conv_expand"
        names |= squeeze_excite(f"{ours}.squeeze_excite", reduce, expand)
        names |= numbered_unit(f"{ours}.shortcut", f"{theirs}.shortcut")
        names |= numbered_unit(f"{ours}.shortcut_pointwise", f"{theirs}.shortcut", 2)
    last = f"blocks.{len(STAGES[arch.name])}.0"
    names |= unit(last_conv(arch), f"{last}.conv", f"{last}.bn1")
    return names | {"head.hidden.0.linear": "conv_head", "head.classifier": "classifier"}


def _timm_branches(arch: Arch) -> Names:
    """timm/models/byobnet.py before its branches are merged."""
    places = [f"stages.{stage}.{i}" for stage, n in enumerate(STAGES[arch.name]) for i in range(n)]
    names: Names = {"head.classifier": "head.fc"}
    for number, theirs in enumerate(("stem", *places)):
        ours = f"rows.{number - 1}" if number else "stem"
        several = arch.name == "mobileone_s0"
        for i, step in enumerate(CONVS if several else CONVS[:1]):
            module = f"{theirs}.conv_kxk.{i}" if several else f"{theirs}.conv_kxk"
            names |= unit(f"{ours}.{step}", f"{module}.conv", f"{module}.bn")
        module = f"{theirs}.conv_scale" if several else f"{theirs}.conv_1x1"
        names |= unit(f"{ours}.conv1x1", f"{module}.conv", f"{module}.bn")
        names[f"{ours}.identity.norm"] = f"{theirs}.identity"
    return names


TABLES: dict[str, Table] = {
    "mobilenet_v1": _timm,
    **dict.fromkeys((*V2_STAGES, *MNASNET, *FBNET, *EFFICIENTNET_LITE), _timm_v2),
    **{name: _timm_v3 for name in STAGES if name.startswith("mobilenet_v3")},
    **{name: _timm_v4 for name in STAGES if name.startswith("mobilenet_v4")},
    "pp_lcnet": _timm_lcnet,
    "ghostnet": _timm_ghostnet,
    "repvgg_a0": _timm_branches,
    "mobileone_s0": _timm_branches,
}

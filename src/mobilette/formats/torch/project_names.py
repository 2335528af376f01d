"""Layer names of single projects.

github.com/akamaster/pytorch_resnet_cifar10 (resnet.py; the shortcuts without weights);
github.com/d-li14/mobilenetv2.pytorch (models/imagenet/mobilenetv2.py), and tonylins'
pytorch-mobilenet-v2, from which it derives; open-mmlab/mmpretrain
(models/backbones/mobilenet_v2.py); Hugging Face transformers (models/mobilenet_v1 and
models/mobilenet_v2, without prefixes such as ``mobilenet_v2.``).
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.families.resnet import CIFAR_DEPTHS
from mobilette.formats.torch.name_tables import (
    Names,
    Source,
    blocks,
    last_conv,
    resnet_names,
    staged,
    unit,
)

AKAMASTER = Source(
    name="akamaster",
    tables=MappingProxyType(
        {f"resnet{d}": partial(resnet_names, classifier="linear") for d in CIFAR_DEPTHS}
    ),
)


V2 = "mobilenet_v2"


def _flat(arch: Arch, last: str, classifier: str) -> Names:
    """Return names that count a block's convolutions, batch norms and activations."""
    names = unit("stem", "features.0.0", "features.0.1")
    for number, (ours, block) in enumerate(blocks(arch), start=1):
        for place, step in enumerate(block.steps()):
            theirs = f"features.{number}.conv"
            names |= unit(
                f"{ours}.{step.name}", f"{theirs}.{3 * place}", f"{theirs}.{3 * place + 1}"
            )
    return names | unit(last_conv(arch), f"{last}.0", f"{last}.1") | {"head.classifier": classifier}


def _of_mmpretrain(arch: Arch) -> Names:
    names = _unit("stem", "conv1")
    for ours, block, stage, place in staged(arch):
        for number, step in enumerate(block.steps()):
            names |= _unit(f"{ours}.{step.name}", f"layer{stage + 1}.{place}.conv.{number}")
    return names | _unit(last_conv(arch), "conv2") | {"head.classifier": "fc"}


def _unit(ours: str, theirs: str) -> Names:
    return unit(ours, f"{theirs}.conv", f"{theirs}.bn")


D_LI14 = Source(
    name="d-li14",
    tables=MappingProxyType({V2: partial(_flat, last="conv", classifier="classifier")}),
)
TONYLINS = Source(
    name="tonylins",
    tables=MappingProxyType({V2: partial(_flat, last="features.18", classifier="classifier.1")}),
)
MMPRETRAIN = Source(name="mmpretrain", tables=MappingProxyType({V2: _of_mmpretrain}))


STEPS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}


def _v1(arch: Arch) -> Names:
    """Names of ``modeling_mobilenet_v1.py``, where each half of a block is a separate layer."""
    names = _layer("stem", "conv_stem")
    for number, (ours, _) in enumerate(blocks(arch)):
        names |= _layer(f"{ours}.depthwise", f"layer.{2 * number}")
        names |= _layer(f"{ours}.pointwise", f"layer.{2 * number + 1}")
    return names | {"head.classifier": "classifier"}


def _v2(arch: Arch) -> Names:
    """Names of ``modeling_mobilenet_v2.py``, where the first block belongs to the stem."""
    names = _layer("stem", "conv_stem.first_conv")
    for number, (ours, block) in enumerate(blocks(arch)):
        theirs = f"layer.{number - 1}" if number else "conv_stem"
        for step in block.steps():
            names |= _layer(f"{ours}.{step.name}", f"{theirs}.{STEPS[step.name]}")
    return names | _layer(last_conv(arch), "conv_1x1") | {"head.classifier": "classifier"}


def _layer(ours: str, theirs: str) -> Names:
    return unit(ours, f"{theirs}.convolution", f"{theirs}.normalization")


TRANSFORMERS = Source(
    name="transformers",
    tables=MappingProxyType({"mobilenet_v1": _v1, "mobilenet_v2": _v2}),
)

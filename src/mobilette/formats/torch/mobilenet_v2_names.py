"""Names that implementations of MobileNet V2 of their own give our layers.

github.com/d-li14/mobilenetv2.pytorch (models/imagenet/mobilenetv2.py), and tonylins'
pytorch-mobilenet-v2, which it comes from; open-mmlab/mmpretrain (models/backbones/mobilenet_v2.py).
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.formats.torch.name_tables import Names, Source, blocks, last_conv, staged, unit

V2 = "mobilenet_v2"


def _flat(arch: Arch, last: str, classifier: str) -> Names:
    """Return names that count convolutions, batch norms and activations of a block through."""
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

"""Hugging Face transformers' names of our layers (its models/mobilenet_v1 and models/mobilenet_v2).

What stands before them there, ``mobilenet_v2.`` say, is not among them.
"""

from __future__ import annotations

from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.formats.torch.name_tables import Names, Source, blocks, last_conv, unit

V2 = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}


def mobilenet_v1(arch: Arch) -> Names:
    """Names of ``modeling_mobilenet_v1.py``: the halves of a block are layers of their own."""
    names = _unit("stem", "conv_stem")
    for number, (ours, _) in enumerate(blocks(arch)):
        names |= _unit(f"{ours}.depthwise", f"layer.{2 * number}")
        names |= _unit(f"{ours}.pointwise", f"layer.{2 * number + 1}")
    return names | {"head.classifier": "classifier"}


def mobilenet_v2(arch: Arch) -> Names:
    """Names of ``modeling_mobilenet_v2.py``: the first block belongs to the stem."""
    names = _unit("stem", "conv_stem.first_conv")
    for number, (ours, block) in enumerate(blocks(arch)):
        theirs = f"layer.{number - 1}" if number else "conv_stem"
        for step in block.steps():
            names |= _unit(f"{ours}.{step.name}", f"{theirs}.{V2[step.name]}")
    return names | _unit(last_conv(arch), "conv_1x1") | {"head.classifier": "classifier"}


def _unit(ours: str, theirs: str) -> Names:
    return unit(ours, f"{theirs}.convolution", f"{theirs}.normalization")


TRANSFORMERS = Source(
    name="transformers",
    tables=MappingProxyType({"mobilenet_v1": mobilenet_v1, "mobilenet_v2": mobilenet_v2}),
)

"""Helpers for the tables of other projects' layer names.

A table is a function of an `Arch` and maps our names of layers with tensors
(`mobilette.arch.layers.layers`) to the project's modules: ``rows.3.depthwise.conv`` to
torchvision's ``features.4.conv.1.0``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mobilette.arch.arch import Arch
from mobilette.arch.families.mobilenet_v1 import TABLE as V1_TABLE
from mobilette.arch.families.mobilenet_v2 import STAGES as V2_STAGES
from mobilette.arch.families.resnet import BASIC, BOTTLENECK, CIFAR_DEPTHS
from mobilette.arch.families.shufflenet_v2 import UNITS
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, NormLayer, Shape
from mobilette.arch.rows import Block, Conv

Names = dict[str, str]
# Count of batches seen by a batch norm; missing in files from before PyTorch 0.4.1.
COUNTER = "num_batches_tracked"
# rows per stage, for networks whose names count stages
STAGES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
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
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A project and its name tables.

    Attributes:
        tables: by network name.
        convolved: modules that are 1x1 convolutions where ours are linear layers.
    """

    name: str
    tables: Mapping[str, Callable[[Arch], Names]]
    convolved: tuple[str, ...] = ()


def tensor_shapes(arch: Arch) -> dict[str, Shape]:
    """Return the name and shape of every tensor in the network's state dict."""
    shapes: dict[str, Shape] = {}
    for layer in layers(arch):
        channels = layer.shape[0]
        match layer:
            case ConvLayer():
                each = layer.in_channels // layer.groups
                shapes[f"{layer.name}.weight"] = (channels, each, layer.kernel, layer.kernel)
                if layer.bias:
                    shapes[f"{layer.name}.bias"] = (channels,)
            case LinearLayer():
                shapes[f"{layer.name}.weight"] = (channels, layer.in_features)
                shapes[f"{layer.name}.bias"] = (channels,)
            case NormLayer():
                for tensor in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{layer.name}.{tensor}"] = (channels,)
                shapes[f"{layer.name}.{COUNTER}"] = ()
            case _:
                pass  # has no tensors
    return shapes


def tensor_names(arch: Arch, source: Source) -> Names:
    """Return our name of every tensor mapped to its name in ``source``."""
    modules = source.tables[arch.name](arch)
    split = {name: name.rpartition(".") for name in tensor_shapes(arch)}
    return {name: f"{modules[layer]}.{tensor}" for name, (layer, _, tensor) in split.items()}


def unit(ours: str, conv: str, norm: str | None = None) -> Names:
    """Return the names of a convolution and its batch norm, if any."""
    names = {f"{ours}.conv": conv}
    return names if norm is None else names | {f"{ours}.norm": norm}


def blocks(arch: Arch) -> Iterator[tuple[str, Block]]:
    """Yield every block with our name; skips pools, which the small form may lack."""
    for number, row in enumerate(arch.rows):
        if isinstance(row, Block):
            yield f"rows.{number}", row


def staged(arch: Arch) -> Iterator[tuple[str, Block, int, int]]:
    """Yield our name of every block, the block, its stage and its place in it, both from 0."""
    places = [(stage, i) for stage, n in enumerate(STAGES[arch.name]) for i in range(n)]
    for (ours, block), (stage, place) in zip(blocks(arch), places, strict=True):
        yield ours, block, stage, place


def last_conv(arch: Arch) -> str:
    """Return our name of the convolution after the last block."""
    assert isinstance(arch.rows[-1], Conv)
    return f"rows.{len(arch.rows) - 1}"


def resnet_names(arch: Arch, classifier: str) -> Names:
    """Return the names of torchvision's ``resnet.py``, which timm and others kept."""
    names = unit("stem", "conv1", "bn1") | {"head.classifier": classifier}
    for ours, block, stage, place in staged(arch):
        theirs = f"layer{stage + 1}.{place}"
        for step in block.steps():
            if step.name == "shortcut":
                if isinstance(step.operation, Conv):
                    shortcut = f"{theirs}.downsample"
                    names |= unit(f"{ours}.shortcut", f"{shortcut}.0", f"{shortcut}.1")
            else:
                number = step.name.removeprefix("conv")
                names |= unit(
                    f"{ours}.{step.name}", f"{theirs}.conv{number}", f"{theirs}.bn{number}"
                )
    return names

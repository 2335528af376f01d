"""What a table of another project's layer names is, and the tensors it names.

A table is a function of an `Arch` and maps our names of layers with tensors
(`mobilette.arch.layers.layers`) to the project's modules: ``rows.3.depthwise.conv`` to
torchvision's ``features.4.conv.1.0``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mobilette.arch.arch import Arch
from mobilette.arch.families.efficientnet_lite import STAGES as EFFICIENTNET_LITE
from mobilette.arch.families.mnasnet import A1, B1
from mobilette.arch.families.mobilenet_v1 import TABLE as V1_TABLE
from mobilette.arch.families.mobilenet_v2 import STAGES as V2_STAGES
from mobilette.arch.families.reparameterised import MOBILEONE_S0, REPVGG_A0
from mobilette.arch.families.resnet import BASIC, BOTTLENECK, CIFAR_DEPTHS
from mobilette.arch.families.shufflenet_v2 import UNITS
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, ConvLayer, LinearLayer, NormLayer, Shape
from mobilette.arch.rows import Block

Names = dict[str, str]
Table = Callable[[Arch], Names]
# Count of batches seen by a batch norm; missing in files from before PyTorch 0.4.1.
COUNTER = "num_batches_tracked"


# rows per stage, for networks whose names count stages
STAGES: Mapping[str, tuple[int, ...]] = {
    "mobilenet_v1": tuple(n for _, n, _ in V1_TABLE),
    **V2_STAGES,
    "mobilenet_v3_large": (1, 2, 3, 4, 2, 3),
    "mobilenet_v3_small": (1, 2, 3, 2, 3),
    "mobilenet_v3_large_minimalistic": (1, 2, 3, 4, 2, 3),
    "mobilenet_v3_small_minimalistic": (1, 2, 3, 2, 3),
    "mobilenet_v4_conv_small": (2, 2, 6, 6, 1),
    "mobilenet_v4_conv_medium": (1, 2, 8, 11, 1),
    "mobilenet_v4_conv_large": (1, 2, 11, 13, 1),
    "mnasnet_a1": tuple(stage.n for stage in A1),
    "mnasnet_b1": tuple(stage.n for stage in B1),
    "mnasnet_small": (1, 1, 2, 4, 3, 3, 1),
    "fbnet_c": (1, 3, 4, 4, 4, 4, 1),
    "single_path_nas": (1, 3, 4, 4, 4, 4, 1),
    **EFFICIENTNET_LITE,
    "pp_lcnet": (1, 2, 2, 2, 4, 2),
    "ghostnet": (1, 1, 1, 1, 1, 1, 5, 1, 4),
    "repvgg_a0": tuple(n for _, n in REPVGG_A0),
    "mobileone_s0": tuple(2 * n for _, n in MOBILEONE_S0),
    "shufflenet_v2": UNITS,
    **{f"resnet{depth}": stages for depth, stages in (BASIC | BOTTLENECK).items()},
    **{f"resnet{depth}": ((depth - 2) // 6,) * 3 for depth in CIFAR_DEPTHS},
}


@dataclass(frozen=True)
class Source:
    """A project and its name tables.

    Attributes:
        tables: by network name.
        convolved: modules that are 1x1 convolutions where ours are linear layers.
    """

    name: str
    tables: Mapping[str, Table]
    convolved: tuple[str, ...] = ()


def tensor_shapes(arch: Arch) -> dict[str, Shape]:
    """Return the name and shape of every tensor in the network's state dict."""
    shapes: dict[str, Shape] = {}
    for layer in layers(arch):
        channels = layer.shape[0]
        match layer:
            case ConvLayer():
                inputs = layer.in_channels // layer.groups
                shapes[f"{layer.name}.weight"] = (channels, inputs, layer.kernel, layer.kernel)
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


def first_weights(arch: Arch) -> list[str]:
    """Return the weights of the convolutions that read the image, in our names."""
    return [f"{layer.name}.weight" for layer in layers(arch) if layer.inputs == (INPUT,)]


def tensor_names(arch: Arch, source: Source) -> Names:
    """Return our name of every tensor mapped to its name in ``source``."""
    modules = source.tables[arch.name](arch)
    split = {name: name.rpartition(".") for name in tensor_shapes(arch)}
    return {name: f"{modules[layer]}.{tensor}" for name, (layer, _, tensor) in split.items()}


def unit(ours: str, conv: str, norm: str | None = None) -> Names:
    """Return the names of a convolution and its batch norm, if any."""
    names = {f"{ours}.conv": conv}
    return names if norm is None else names | {f"{ours}.norm": norm}


def numbered_unit(ours: str, theirs: str, first: int = 0) -> Names:
    """Return the names of a convolution and batch norm in a ``Sequential``."""
    return unit(ours, f"{theirs}.{first}", f"{theirs}.{first + 1}")


def squeeze_excite(ours: str, reduce: str, expand: str) -> Names:
    """Return the names of the two convolutions."""
    return unit(f"{ours}.reduce", reduce) | unit(f"{ours}.expand", expand)


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
    return f"rows.{len(arch.rows) - 1}"

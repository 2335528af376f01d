"""What a table of another project's layer names is, and the tensors it names.

A table is a function of an `Arch` and maps our names of layers with tensors
(`mobilette.arch.layers.layers`) to the project's modules: ``rows.3.depthwise.conv`` to
torchvision's ``features.4.conv.1.0``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer, NormLayer, Shape

Names = dict[str, str]
Table = Callable[[Arch], Names]
# Count of batches seen by a batch norm; missing in files from before PyTorch 0.4.1.
COUNTER = "num_batches_tracked"


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


def tensor_names(arch: Arch, source: Source) -> Names:
    """Return our name of every tensor mapped to its name in ``source``."""
    modules = source.tables[arch.name](arch)
    split = {name: name.rpartition(".") for name in tensor_shapes(arch)}
    return {name: f"{modules[layer]}.{tensor}" for name, (layer, _, tensor) in split.items()}

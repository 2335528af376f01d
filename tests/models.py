"""`Model`s of networks made by tests."""

from __future__ import annotations

from mobilette.arch.arch import Arch
from mobilette.arch.rows import Conv
from mobilette.data.preprocess import preset
from mobilette.model.model import Model, Origin, numbered_classes
from mobilette.nn.network import Network


def model_of(network: Network | Arch, *, width_mult: float | None = None) -> Model:
    """Return the network with a copy of its weights, or with random ones, as a model."""
    network = Network(network) if isinstance(network, Arch) else network
    arch = network.arch
    return Model(
        arch=arch,
        weights={name: tensor.clone() for name, tensor in network.state_dict().items()},
        preprocess=preset("torch", in_channels=arch.in_channels),
        classes=numbered_classes(arch.num_classes),
        origin=Origin(name=arch.name, width_mult=width_mult),
    )


def stem_of(arch: Arch) -> Conv:
    """Return the first convolution."""
    assert isinstance(arch.stem, Conv)
    return arch.stem

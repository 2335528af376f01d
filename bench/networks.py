"""The network that every contender of a bench trains: ours, made of torch's own layers."""

from __future__ import annotations

from torch import nn

from mobilette import create_model
from mobilette.nn.layers import GlobalAveragePool, ReLU6


def with_torchs_layers(network: nn.Module) -> nn.Module:
    """Put torch's own layers in the place of ours, the same functions."""
    for name, module in list(network.named_modules()):
        if isinstance(module, ReLU6):
            network.set_submodule(name, nn.ReLU6(inplace=True))
        elif isinstance(module, GlobalAveragePool):
            network.set_submodule(name, nn.AdaptiveAvgPool2d(1))
    return network


def build_network(model: str, *, width_mult: float, resolution: int, classes: int) -> nn.Module:
    """Return the network as torchvision's networks are made: the same layers, NCHW, fp32."""
    network = create_model(model, num_classes=classes, width_mult=width_mult, resolution=resolution)
    return with_torchs_layers(network)

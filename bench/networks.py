"""Networks of benches: ours made of torch's own layers, and runs with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mobilette import create_model
from mobilette.data.preprocess import preset
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model, Origin
from mobilette.nn.layers import GlobalAveragePool, ReLU6
from mobilette.run.directory import Run, open_run


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


def random_run(
    model: str,
    folder: Path,
    *,
    width_mult: float = 1.0,
    resolution: int = 224,
    classes: int = 1000,
) -> Run:
    """Write a run of a network with random weights, which is as fast as with any other.

    Its batch norms have the statistics of noise: without, activations would fade from layer to
    layer until they are denormal, with which processors are many times slower.
    """
    network = create_model(model, num_classes=classes, width_mult=width_mult, resolution=resolution)
    _settle(network, (4, *network.arch.shape))
    random = Model(
        arch=network.arch,
        preprocess=preset("torch"),
        classes=tuple(ClassLabel(id=str(n), name=str(n)) for n in range(classes)),
        weights=network.state_dict(),
        origin=Origin(name=model),
    )
    return open_run(random.save(folder))


def _settle(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Set the batch norms' statistics to those of a batch of noise."""
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.randn(shape))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()

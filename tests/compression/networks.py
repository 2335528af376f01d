"""Folded models with random weights and statistics, for the tests of compression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobilette.compression.folding import fold
from mobilette.model.model import Model
from mobilette.nn.network import Network
from tests.batch_norm import give_statistics
from tests.families import arch_of
from tests.models import model_of

# Every kind of block and head, as narrow as it gets.
FAMILIES = {
    "mobilenet_v1": 0.25,
    "mobilenet_v2": 0.25,
    "mobilenet_v3_small": 0.5,
    "mobilenet_v3_small_minimalistic": 0.5,
    "shufflenet_v1_g1": 0.25,
    "shufflenet_v2": 0.5,
    "squeezenet1_1_bn": 0.25,
    "resnet20": 0.5,
    "resnet50": 0.125,
    "vgg11_bn": 0.125,
}


def random_images(count: int = 16, *, seed: int = 0, resolution: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, resolution, resolution, generator=generator)


def random_model(name: str, width: float | None = None, *, resolution: int = 32) -> Model:
    """Return a folded model whose activations have the size of a trained one's."""
    torch.manual_seed(0)
    width = FAMILIES[name] if width is None else width
    network = Network(arch_of(name, width, resolution=resolution)).eval()
    give_statistics(network, random_images(resolution=resolution))
    return fold(model_of(network))


def copied(model: Model) -> dict[str, Tensor]:
    """Return a copy of the model's weights."""
    return {name: tensor.clone() for name, tensor in model.weights.items()}


def relative_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def weight_of(network: nn.Module, layer: str) -> Tensor:
    weight = network.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight.detach()

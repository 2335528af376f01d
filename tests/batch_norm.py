"""Running statistics for networks that were never trained: those of their own activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def give_statistics(network: nn.Module, images: Tensor) -> None:
    """Give every batch norm random weights, and statistics near those of ``images``.

    Statistics drawn without regard to the network would drown the images after a few layers: all
    images would then get the same logits, and two networks that differ could agree. Or they would
    blow them up, and the logits be those of rounding.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(0)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.uniform_(-0.5, 0.5, generator=generator)
    was_training = network.training
    network.train()
    network(images)
    network.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        off = torch.rand(2, norm.num_features, generator=generator) - 0.5
        mean += 0.2 * off[0] * variance.sqrt()
        variance *= 1.0 + 0.2 * off[1]

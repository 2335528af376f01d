"""The optimiser, and the learning rate over the course of a run."""

from __future__ import annotations

import math

import torch
from torch import nn

from mobilette.training.recipe import Recipe


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser: SGD with Nesterov momentum, or AdamW; fused kernels."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for module in network.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
            (decayed if is_weight and not depthwise else exempt).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True
        )
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the rate at ``progress`` (0 to 1): linear warm-up, then a cosine to zero.

    Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5 with one cycle.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < recipe.warmup:
        return recipe.lr * progress / recipe.warmup
    rest = (progress - recipe.warmup) / (1.0 - recipe.warmup)
    return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * rest))

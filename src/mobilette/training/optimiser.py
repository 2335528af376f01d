"""The optimiser."""

from __future__ import annotations

import torch
from torch import nn

from mobilette.nn.network import Network
from mobilette.training.recipe import Recipe


def build_optimizer(
    network: Network, recipe: Recipe, *, scaled: bool = False
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser: SGD with Nesterov momentum, or AdamW; fused kernels.

    ``scaled``: whether its losses are, by a `torch.amp.GradScaler` that skips steps. In one that is
    skipped, torch's fused SGD changes its momentum, or leaves it unset (2.13 here; 2.11 as
    LibreYOLO/libreyolo#771 has it), so it is not taken then.
    """
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for part, factor in _parts(network, recipe)
        for parameters, decay in zip(_by_decay(part), (recipe.weight_decay, 0.0), strict=True)
        if parameters
    ]
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=not scaled
        )
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)


def _parts(network: Network, recipe: Recipe) -> list[tuple[nn.Module, float]]:
    """Return the modules that have rates of their own, each with its part of the recipe's rate."""
    if recipe.body_lr == 1.0 and not recipe.frozen_epochs:
        return [(network, 1.0)]
    body = nn.ModuleList([network.stem, network.rows])
    return [(body, recipe.body_lr), (network.head, 1.0)]


def _by_decay(part: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters with weight decay, and those without."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for module in part.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
            (decayed if is_weight and not depthwise else exempt).append(parameter)
    return decayed, exempt

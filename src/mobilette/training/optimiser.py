"""The optimiser."""

from __future__ import annotations

import torch
from torch import nn

from mobilette.arch.primitives import is_depthwise
from mobilette.nn.network import Network
from mobilette.training.recipe import Recipe

CLASSIFIER = "classifier"
SCALE = "scale"  # of a group of parameters: what its rate is multiplied by besides
# A classifier's rate times the mean squared length of what it sees (docs/log.md, "Transfer").
_STEADY = 2.0


def build_optimizer(
    network: Network, recipe: Recipe, *, scaled: bool = False
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser: SGD with Nesterov momentum, or AdamW; fused kernels.

    ``scaled``: whether its losses are, by a `torch.amp.GradScaler` that skips steps. In one that is
    skipped, torch's fused SGD changes its momentum, or leaves it unset (2.13 here; 2.11 as
    LibreYOLO/libreyolo#771 has it), so it is not taken then.
    """
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor, SCALE: 1.0}
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
    return [(body(network), recipe.body_lr), (classifier(network), 1.0)]


def body(network: Network) -> nn.ModuleList:
    """Return everything but the classifier, hidden layers of the head included."""
    before = [part for name, part in network.head.named_children() if name != CLASSIFIER]
    return nn.ModuleList([network.stem, network.rows, *before])


def classifier(network: Network) -> nn.Module:
    """Return the last layer."""
    return network.head.get_submodule(CLASSIFIER)


def scale_classifier(
    optimizer: torch.optim.Optimizer, network: Network, recipe: Recipe, *, squared: float
) -> None:
    """Lower the rate of a classifier that sees vectors of a large mean ``squared`` length.

    Where the recipe has one rate for everything it is left alone.

    The curvature of its loss is at most half of that. With a rate far beyond its inverse SGD
    swings to answers that are too sure, and what it then asks of the body undoes that. AdamW's
    steps do not depend on the length.
    """
    if recipe.optimizer != "sgd":
        return
    own = {id(parameter) for parameter in classifier(network).parameters()}
    for group in optimizer.param_groups:
        if id(group["params"][0]) in own:
            group[SCALE] = min(1.0, _STEADY / (recipe.lr * max(squared, 1e-12)))


def _by_decay(part: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters with weight decay, and those without."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for module in part.modules():
        depthwise = isinstance(module, nn.Conv2d) and is_depthwise(
            module.groups, module.in_channels, module.out_channels
        )
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
            (decayed if is_weight and not depthwise else exempt).append(parameter)
    return decayed, exempt

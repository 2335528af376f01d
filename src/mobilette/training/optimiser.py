"""The optimiser, its learning rate schedule, and the average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mobilette.arch.primitives import is_depthwise
from mobilette.arch.scale import Resolution, as_resolution, size_of
from mobilette.limits import RESOLUTION
from mobilette.nn.network import Network, measure_statistics
from mobilette.training.recipe import Recipe

CLASSIFIER = "classifier"
SCALE = "scale"  # key of a parameter group: another factor on its rate
# A classifier's rate times the mean squared length of its inputs (docs/log.md, "Transfer").
_STEADY = 2.0


def build_optimizer(
    network: Network, recipe: Recipe, *, scaled: bool = False
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser: SGD with Nesterov momentum, or AdamW; fused.

    That of a step that is captured reads its rate, and what else varies, from tensors.
    ``scaled``: whether a `torch.amp.GradScaler` may skip steps. SGD is not fused then: a skipped
    step would change its momentum or leave it unset (torch 2.13, 2.11).
    """
    parts: list[tuple[nn.Module, float]] = [(network, 1.0)]
    if recipe.body_lr != 1.0 or recipe.frozen_epochs:
        parts = [(body(network), recipe.body_lr), (classifier(network), 1.0)]
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor, SCALE: 1.0}
        for part, factor in parts
        for parameters, decay in zip(_by_decay(part), (recipe.weight_decay, 0.0), strict=True)
        if parameters
    ]
    if recipe.optimizer == "sgd":
        varies = recipe.graphs and recipe.schedule == "one_cycle"
        kind = _SteeredSGD if varies else torch.optim.SGD
        nesterov = recipe.momentum > 0
        return kind(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=not scaled
        )
    betas = (recipe.momentum, 0.999)
    return torch.optim.AdamW(
        groups, lr=recipe.lr, betas=betas, fused=True, capturable=recipe.graphs
    )


class _SteeredSGD(torch.optim.SGD):
    """SGD with Nesterov momentum whose momentum is a tensor; PyTorch's kernel takes a number."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the parameters that have a gradient."""
        for group in self.param_groups:
            trained = [each for each in group["params"] if each.grad is not None]
            if not trained:
                continue
            for each in trained:
                if "momentum_buffer" not in self.state[each]:
                    self.state[each]["momentum_buffer"] = torch.zeros_like(each)
            moved = [self.state[each]["momentum_buffer"] for each in trained]
            change = torch._foreach_add(
                [each.grad for each in trained], trained, alpha=group["weight_decay"]
            )
            torch._foreach_mul_(moved, group["momentum"])
            torch._foreach_add_(moved, change)
            torch._foreach_add_(change, torch._foreach_mul(moved, group["momentum"]))
            torch._foreach_mul_(change, group["lr"])
            torch._foreach_sub_(trained, change)


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
    """Lower the rate of a classifier whose inputs have a large mean ``squared`` length.

    The curvature of its loss is at most half that: at a much higher rate than the inverse, SGD
    swings to overconfident answers whose gradients spoil the body. AdamW's steps do not depend on
    the length. A recipe with one rate for everything keeps it.
    """
    if recipe.optimizer != "sgd":
        return
    own = {id(parameter) for parameter in classifier(network).parameters()}
    for group in optimizer.param_groups:
        if id(group["params"][0]) in own:
            group[SCALE] = min(1.0, _STEADY / (recipe.lr * max(squared, 1e-12)))


def _by_decay(part: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
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


# One-cycle schedule: the peak rate over the first, and over the last.
_ONE_CYCLE_START, _ONE_CYCLE_END = 25.0, 25e4
_ONE_CYCLE_MOMENTUM = 0.1  # how far the momentum falls while the rate rises
# Few sizes, because a compiled network is recompiled for each.
_STAGES = 4
_GROWING = 0.75
_MULTIPLE = 4


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the learning rate at ``progress``, the fraction of the run that is done (0 to 1).

    Cosine: Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5 with one cycle, after a linear
    warm-up. One cycle: Smith and Topin 2017, arXiv 1708.07120, section 2, along cosines.
    """
    progress = min(max(progress, 0.0), 1.0)
    rising = progress < recipe.warmup
    if recipe.schedule == "one_cycle":
        lowest = recipe.lr / (_ONE_CYCLE_START if rising else _ONE_CYCLE_END)
        return lowest + (recipe.lr - lowest) * _height(recipe, progress)
    if rising:
        return recipe.lr * progress / recipe.warmup
    return recipe.lr * (1.0 if recipe.schedule == "constant" else _height(recipe, progress))


def momentum(recipe: Recipe, progress: float) -> float:
    """Return the momentum at ``progress`` (0 to 1): constant except in the one-cycle schedule."""
    if recipe.schedule != "one_cycle":
        return recipe.momentum
    fall = _ONE_CYCLE_MOMENTUM * _height(recipe, min(max(progress, 0.0), 1.0))
    return max(recipe.momentum - fall, 0.0)


def _height(recipe: Recipe, progress: float) -> float:
    """Return the height of the cycle: 0 at both ends, 1 after the warm-up, joined by cosines."""
    if progress < recipe.warmup:
        return 0.5 * (1.0 - math.cos(math.pi * progress / recipe.warmup))
    rest = (progress - recipe.warmup) / (1.0 - recipe.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * rest))


def resolution_at(recipe: Recipe, progress: float, *, full: Resolution) -> Resolution:
    """Return the training resolution at ``progress`` (0 to 1), in pixels.

    It grows in four equal steps to ``full`` and stays there for the last quarter of the run
    (progressive resizing: Howard 2018, DAWNBench; Tan and Le 2021, arXiv 2104.00298, section 4).
    """
    if recipe.start_resolution == 1.0:
        return full
    stage = min(int(progress / _GROWING * _STAGES), _STAGES)
    if stage == _STAGES:
        return full
    part = recipe.start_resolution + (1.0 - recipe.start_resolution) * stage / _STAGES
    height, width = (
        min(max(round(part * side / _MULTIPLE) * _MULTIPLE, int(RESOLUTION.lowest)), side)
        for side in size_of(full)
    )
    return as_resolution((height, width))


class WeightAverage:
    """The exponential moving average (EMA) of a network's weights, as a second network.

    average = d * average + (1 - d) * weights; at step t, d <= (1 + t) / (10 + t), so that the
    initial weights fade quickly.
    """

    def __init__(self, network: Network, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self._mine = [parameter.detach() for parameter in self.network.parameters()]
        self._theirs = [parameter.detach() for parameter in network.parameters()]

    def share(self, step: int) -> float:
        """Return 1 - d after ``step`` (counted from 0), the share of the weights."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, share: float | Tensor) -> None:
        """Update the average by ``share`` of the weights, a number or a scalar on the device."""
        if isinstance(share, Tensor):
            torch._foreach_lerp_(self._mine, self._theirs, [share] * len(self._mine))
        else:
            torch._foreach_lerp_(self._mine, self._theirs, share)

    def measure_statistics(self, batches: Iterable[Tensor]) -> None:
        """Measure the averaged network's batch norm statistics on normalised batches.

        The trained network's running statistics belong to other weights, and lag behind even those:
        in a short run (or with V3's momentum of 0.01) they are useless.
        """
        measure_statistics(self.network, batches)

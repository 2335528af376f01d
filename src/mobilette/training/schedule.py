"""What changes over the course of a run: learning rate, momentum, resolution."""

from __future__ import annotations

import math

from mobilette.limits import RESOLUTION
from mobilette.training.recipe import Recipe

# Of the one-cycle schedule: the peak rate over the first, and over the last.
_ONE_CYCLE_START, _ONE_CYCLE_END = 25.0, 25e4
_ONE_CYCLE_MOMENTUM = 0.1  # how far the momentum falls while the rate rises
# Few sizes, because a compiled network is compiled anew for each.
_STAGES = 4
_GROWING = 0.75
_MULTIPLE = 4


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the rate at ``progress``, the part of the run that is over (0 to 1).

    Cosine: Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5 with one cycle, after a linear
    warm-up. One cycle: Smith and Topin 2017, arXiv 1708.07120, section 2, along cosines.
    """
    progress = min(max(progress, 0.0), 1.0)
    rising = progress < recipe.warmup
    if recipe.schedule == "one_cycle":
        lowest = recipe.lr / (_ONE_CYCLE_START if rising else _ONE_CYCLE_END)
        return lowest + (recipe.lr - lowest) * _height(recipe, progress)
    return recipe.lr * (progress / recipe.warmup if rising else _height(recipe, progress))


def momentum(recipe: Recipe, progress: float) -> float:
    """Return the momentum at ``progress`` (0 to 1): constant, but for the one-cycle schedule."""
    if recipe.schedule == "cosine":
        return recipe.momentum
    fall = _ONE_CYCLE_MOMENTUM * _height(recipe, min(max(progress, 0.0), 1.0))
    return max(recipe.momentum - fall, 0.0)


def _height(recipe: Recipe, progress: float) -> float:
    """Return where the cycle is: 0 at both ends, 1 when the warm-up is over, cosines between."""
    if progress < recipe.warmup:
        return 0.5 * (1.0 - math.cos(math.pi * progress / recipe.warmup))
    rest = (progress - recipe.warmup) / (1.0 - recipe.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * rest))


def resolution_at(recipe: Recipe, progress: float, *, full: int) -> int:
    """Return the resolution of training at ``progress`` (0 to 1), in pixels.

    It grows in four equal steps to ``full`` and stays there for the last quarter of the run
    (progressive resizing: Howard 2018, DAWNBench; Tan and Le 2021, arXiv 2104.00298, section 4).
    It is never below the smallest that a network can have.
    """
    if recipe.start_resolution == 1.0:
        return full
    stage = min(int(progress / _GROWING * _STAGES), _STAGES)
    if stage == _STAGES:
        return full
    part = recipe.start_resolution + (1.0 - recipe.start_resolution) * stage / _STAGES
    side = round(part * full / _MULTIPLE) * _MULTIPLE
    return min(max(side, int(RESOLUTION.lowest)), full)

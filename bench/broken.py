"""Networks built to break in int8: the same function, in weights that one scale does not fit."""

from __future__ import annotations

import numpy as np
import torch

from mobilette.arch.channels import scaling_groups
from mobilette.compression.rescaling import Rescaling, widen
from mobilette.model.model import Model


def spread_channels(model: Model, *, orders: float = 3.0, seed: int = 0) -> Model:
    """Return the same function with ranges of channels spread over ``orders`` of magnitude.

    Every channel that can be is computed some factor larger, and read as much smaller; factors are
    drawn log-uniformly from 10^(-orders / 2) to 10^(orders / 2). It is the failure of the published
    MobileNetV2 made by hand (Nagel et al. 2019, arXiv 1906.04721, figure 2). Every ReLU6 becomes a
    ReLU first, without which the function would be another: compare with the network that has
    `mobilette.compression.rescaling.widen` done to it.

    Args:
        model: with batch norms folded.
        orders: powers of ten between the smallest and the largest factor.
        seed: of the factors.
    """
    random = np.random.default_rng(seed)
    rescaling = Rescaling(model)
    arch = widen(rescaling.arch)
    for group in scaling_groups(arch):
        powers = random.uniform(-orders / 2, orders / 2, group.size)
        rescaling.scale(group, torch.from_numpy(10.0**powers))
    return rescaling.model(arch)

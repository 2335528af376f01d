"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from mobilette.nn.network import Network, measure_statistics


class WeightAverage:
    """A second network that follows the trained one: average = d * average + (1 - d) * weights.

    At step t the decay is at most (1 + t) / (10 + t), so that the start does not linger.
    """

    def __init__(self, network: Network, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self._mine = [parameter.detach() for parameter in self.network.parameters()]
        self._theirs = [parameter.detach() for parameter in network.parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the trained network's weights after ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mine, self._theirs, 1 - decay)

    def measure_statistics(self, batches: Iterable[Tensor]) -> None:
        """Give the averaged weights batch norm statistics of their own, measured on ``batches``.

        The trained network's running statistics belong to other weights, and lag behind even
        these: in a short run (or with V3's momentum of 0.01) they are useless.

        Args:
            batches: normalised images, float (N, C, H, W).
        """
        measure_statistics(self.network, batches)

"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mobilette.nn.network import Network


class WeightAverage:
    """A second network that follows the trained one: average = d * average + (1 - d) * weights.

    Batch norm's running statistics are averaged too, so they belong to the averaged weights. At
    step t the decay is at most (1 + t) / (10 + t), so that the start does not linger.
    """

    def __init__(self, network: Network, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self._pairs = _float_pairs(self.network, network)
        self._counters = [
            (mine, theirs)
            for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True)
            if not mine.is_floating_point()
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the trained network's weights after ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self._pairs
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for counter, source in self._counters:
            counter.copy_(source)


def _float_pairs(average: nn.Module, source: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    mine, theirs = average.state_dict(), source.state_dict()
    names = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    return [mine[name] for name in names], [theirs[name] for name in names]

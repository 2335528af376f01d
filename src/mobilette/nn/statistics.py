"""Running statistics of batch norms, measured anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mobilette.nn.network import Network


@torch.no_grad()
def measure_statistics(network: Network, batches: Iterable[Tensor]) -> None:
    """Give the batch norms of ``network`` statistics measured on ``batches``.

    For networks whose running statistics belong to other weights. Mean and variance are averaged
    over the batches ("precise BN": Wu and Johnson 2021, arXiv 2105.07576, section 3). All else is
    in inference; the network is left so.

    Args:
        network: changed in place.
        batches: normalised images, float (N, C, H, W).
    """
    network.eval()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's way to say: a plain average
        norm.train()
    for batch in batches:
        network(batch)
    for norm in norms:
        norm.momentum = network.arch.norm_momentum
        norm.eval()

"""Channel importance, for pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.channels import channel_groups
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer
from mobilette.arguments import checked
from mobilette.errors import InputError
from mobilette.formats.importance import contributions
from mobilette.model.model import Model
from mobilette.nn.network import Network

# One score >= 0 per channel for each group of `mobilette.arch.channels.channel_groups`: float64
# (size,) on the CPU.
Scores = tuple[Tensor, ...]
Loss = Callable[[Tensor, Tensor], Tensor]


@checked
def norm_scores(model: Model) -> Scores:
    """Return each channel's summed `contributions` to its readers, from the weights alone."""
    return _by_channel(model.arch, contributions(model.arch, model.weights))


@checked
def taylor_scores(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss: Loss = nn.functional.cross_entropy,
) -> Scores:
    """Return the squared first-order change of the loss when a channel is removed.

    Molchanov et al. 2019, arXiv 1906.10771, equation 8 with one gate per channel, averaged over
    batches. The gate is where the channel is read: its gradient is the sum of weight times gradient
    over all weights that read it. So channels tied by an addition share one score.

    Batch norms use batch statistics, so a channel that adds the same to all images costs nothing:
    statistics are measured again after pruning.

    ``batches`` yields normalised images, float (N, C, H, W) with N >= 2, and their labels, all on
    one device; ``loss`` takes logits and labels.

    Raises:
        InputError: there is no batch.
    """
    arch = model.arch
    network = copy.deepcopy(model.network).eval()  # without dropout
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    sums = [torch.zeros(group.size, dtype=torch.float64) for group in channel_groups(arch)]
    number = 0
    for x, labels in batches:
        number += 1
        network.to(x.device).zero_grad()
        loss(network(x).float(), labels).backward()  # type: ignore[no-untyped-call]
        for total, gate in zip(sums, _by_channel(arch, _gates(network)), strict=True):
            total += gate.square()
    if not number:
        raise InputError("there are no images to score channels on")
    return tuple(total / number for total in sums)


def _gates(network: Network) -> dict[str, Tensor]:
    """Return the gradient of a gate on each input channel by layer, (inputs,)."""
    gates = {}
    parameters = dict(network.named_parameters())
    for layer in layers(network.arch):
        weight = parameters.get(f"{layer.name}.weight")
        if weight is None or weight.dim() < 2 or weight.grad is None:
            continue
        groups = layer.groups if isinstance(layer, ConvLayer) else 1
        product = (weight.detach().double() * weight.grad.double()).cpu()
        by_group = product.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        gates[layer.name] = by_group.sum(dim=(1, 3)).flatten()
    return gates


def _by_channel(arch: Arch, by_input: Mapping[str, Tensor]) -> Scores:
    sums = []
    for group in channel_groups(arch):
        total = torch.zeros(group.size, dtype=torch.float64)
        for place, positions in group.places.items():
            if place.side == "input":
                total += by_input[place.layer][list(positions)].reshape(group.size, -1).sum(dim=1)
        sums.append(total)
    return tuple(sums)

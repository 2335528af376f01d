"""How important each channel of a network is: what pruning goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.channels import channel_groups
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer
from mobilette.errors import InputError
from mobilette.formats.importance import contributions
from mobilette.nn.network import Network

# For each group of `mobilette.arch.channels.channel_groups` a number for each channel, at least 0:
# float64 (size,) on the CPU.
Scores = tuple[Tensor, ...]
Loss = Callable[[Tensor, Tensor], Tensor]


def norm_scores(arch: Arch, weights: Mapping[str, Tensor]) -> Scores:
    """Return what each channel contributes to the layers that read it, told from the weights.

    The shares of `mobilette.formats.importance.contributions`, summed over these layers.
    """
    return _by_channel(arch, contributions(arch, weights))


def taylor_scores(
    arch: Arch,
    weights: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss: Loss = nn.functional.cross_entropy,
) -> Scores:
    """Return the square of the change of the loss when a channel goes, to first order.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", arXiv 1906.10771,
    equation 8 with a gate for each channel, and the mean over batches. The gate is where the
    channel is read: its gradient is the sum of weight times gradient over the weights that read it,
    added up over all layers that do. The channels that an addition ties are so counted once and
    together, and it is the same whether a batch norm comes before or not.

    Batch norms normalise by the batch: what a channel adds to all images alike costs nothing,
    because statistics are measured anew after a cut.

    Args:
        arch: the network.
        weights: its state dict; it is left alone.
        batches: normalised images, float (N, C, H, W), and their labels, on one device; N >= 2.
        loss: of logits and labels.

    Raises:
        InputError: there is no batch.
    """
    network: Network | None = None
    sums = [torch.zeros(group.size, dtype=torch.float64) for group in channel_groups(arch)]
    number = 0
    for x, labels in batches:
        number += 1
        if network is None:
            network = _load(arch, weights).to(x.device)
        network.zero_grad()
        loss(network(x).float(), labels).backward()  # type: ignore[no-untyped-call]
        for total, gate in zip(sums, _by_channel(arch, _gates(network)), strict=True):
            total += gate.square()
    if not number:
        raise InputError("there are no images to tell from which channels matter")
    return tuple(total / number for total in sums)


def _load(arch: Arch, weights: Mapping[str, Tensor]) -> Network:
    """Return a copy that normalises by the batch, without dropout."""
    network = Network(arch)
    network.load_state_dict(weights)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    return network


def _gates(network: Network) -> dict[str, Tensor]:
    """Return for each layer with weights the gradient of a gate at each input, (inputs,)."""
    gates = {}
    for layer in layers(network.arch):
        weight = getattr(_module(network, layer.name), "weight", None)
        if weight is None or weight.dim() < 2 or weight.grad is None:
            continue
        groups = layer.groups if isinstance(layer, ConvLayer) else 1
        product = (weight.detach().double() * weight.grad.double()).cpu()
        by_group = product.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        gates[layer.name] = by_group.sum(dim=(1, 3)).flatten()
    return gates


def _module(network: Network, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:  # a layer of the graph that is no module: an activation in a block
        return None


def _by_channel(arch: Arch, by_input: Mapping[str, Tensor]) -> Scores:
    """Return the sums over the places where each channel is read."""
    sums = []
    for group in channel_groups(arch):
        total = torch.zeros(group.size, dtype=torch.float64)
        for place, positions in group.places.items():
            if place.side == "input":
                total += by_input[place.layer][list(positions)].reshape(group.size, -1).sum(dim=1)
        sums.append(total)
    return tuple(sums)

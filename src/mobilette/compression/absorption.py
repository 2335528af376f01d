"""High biases moved to the next layer, so that values need not be far from zero.

Nagel et al. 2019, arXiv 1906.04721, section 4.1.3: what equalisation makes larger may leave a
channel with a high bias, and all channels of an activation share one range. Where relu(x) = relu(x
- c) + c, as it is for every x >= c, c moves from the bias of the layer that computes x into that of
the layer that reads it, W * c (equations 13 to 15).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, scaling_groups
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    ActivationLayer,
    AdaptivePoolLayer,
    AnyLayer,
    ConvLayer,
    LinearLayer,
    PoolLayer,
    ShuffleLayer,
    SliceLayer,
)
from mobilette.compression.observation import check_inputs, observe
from mobilette.compression.rescaling import Rescaling
from mobilette.nn.network import Network

# c is this many standard deviations below the mean: normal values exceed it 99.865% of the time.
DEVIATIONS = 3.0


def absorb_high_biases(network: Network, inputs: Tensor) -> Network:
    """Return ``network`` with a constant c of channels moved to the layers behind.

    c = max(0, mean - 3 std) of what a ReLU is given, measured on ``inputs``, but no more than the
    smallest value there, so that they are answered as before. The paper takes mean and deviation
    from the batch norm, and values as normal, 1 in 700 of which lie below c; measured ones often
    have a longer tail. A channel is moved where one layer computes it, its ReLU follows, and
    whatever reads it, after pools or not, is a 1x1 convolution or a linear layer: padding adds
    zeros, which a larger kernel would read without c.

    Args:
        network: with batch norms folded; it is left alone.
        inputs: normalised images, float (N, C, H, W).

    Raises:
        InputError: no images, or not of the network's size.
    """
    check_inputs(network.arch, inputs)
    movable = _movable(network.arch)
    amounts: dict[str, Tensor] = {}
    moments = _measure_moments(network, inputs, sorted({name for name, _ in movable}))
    for name, (mean, deviation, least) in moments.items():
        amounts[name] = torch.minimum(mean - DEVIATIONS * deviation, least).clamp_min(0.0)
    rescaling = Rescaling(network)
    for name, group in movable:
        rescaling.shift(group, amounts[name][torch.tensor(group.outputs[name])])
    return rescaling.network()


def _movable(arch: Arch) -> list[tuple[str, ChannelGroup]]:
    """Return the groups of channels that a constant can be taken from, and what computes them."""
    by_name = {layer.name: layer for layer in layers(arch)}
    relu_of = {
        layer.inputs[0]: layer.name
        for layer in by_name.values()
        if isinstance(layer, ActivationLayer) and layer.function == "relu"
    }
    found = []
    for group in scaling_groups(arch):
        through = {place.layer for place in group.places if place.side == "through"}
        if len(group.outputs) != 1:
            continue
        (name,) = group.outputs
        if relu_of.get(name) not in through:
            continue
        if all(_lets_pass(by_name[other]) for other in (*through, *group.inputs)):
            found.append((name, group))
    return found


def _lets_pass(layer: AnyLayer) -> bool:
    """Whether a constant in what the layer is given is a constant in what it gives."""
    if isinstance(layer, ConvLayer):
        return layer.kernel == 1
    if isinstance(layer, PoolLayer):
        return layer.function == "max" or not (layer.padding or layer.ceil_mode)
    if isinstance(layer, ActivationLayer):
        return layer.function == "relu"
    return isinstance(layer, LinearLayer | AdaptivePoolLayer | ShuffleLayer | SliceLayer)


def _measure_moments(
    network: Network, inputs: Tensor, names: list[str]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return mean, standard deviation and least value of each channel the layers give, float64."""
    sums: dict[str, Tensor] = {}
    least: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        values = output.double().transpose(0, 1).flatten(1).cpu()
        count = torch.full_like(values[:, 0], values.shape[1])
        found = torch.stack([count, values.sum(dim=1), values.square().sum(dim=1)])
        sums[name] = sums[name] + found if name in sums else found
        lowest = values.amin(dim=1)
        least[name] = torch.minimum(least.get(name, lowest), lowest)

    if names:
        observe(network, inputs, names, take)
    moments = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        moments[name] = mean, (squares / count - mean.square()).clamp_min(0).sqrt(), least[name]
    return moments

"""The mean error that int8 makes in what a layer computes, taken off its bias.

Nagel et al. 2019, arXiv 1906.04721, section 4.2: rounded weights make an output wrong on average,
E[W_int8 x] is not E[W x], by what the bias can take up. Here both are measured on images, as
their appendix D does for networks without batch norm.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.compression.float_layers import weight_layers
from mobilette.compression.observation import check_inputs, largest_activation, observe
from mobilette.compression.ranges import Ranges
from mobilette.compression.rescaling import Rescaling
from mobilette.compression.simulation import WeightScales, simulated
from mobilette.nn.network import Network

# Values of the largest activation of all images together: 256 MiB of float32.
LARGEST = 2**26
FEWEST = 16


@torch.no_grad()
def correct_biases(
    network: Network,
    inputs: Tensor,
    *,
    ranges: Ranges,
    weights: WeightScales = "per_channel",
    float_layers: Collection[str] = (),
) -> Network:
    """Return ``network`` with biases by which it answers better in int8; in float, worse.

    In the order of execution every layer's mean output in int8 becomes that in float; what layers
    before it have left of their errors is corrected, too. All images go through one layer before
    the next, so that only as many as fit the memory are used, evenly chosen: 50 of 224 pixels for
    MobileNetV2, thousands of 32.

    Args:
        network: with batch norms folded, in evaluation mode; it is left alone.
        inputs: normalised images, float (N, C, H, W).
        ranges: how the ranges of activations are chosen.
        weights: one scale for each output channel, or one for all weights of a layer.
        float_layers: convolutions and linear layers that are not int8.

    Raises:
        InputError: no images, not of the network's size, or no such layer.
    """
    check_inputs(network.arch, inputs)
    names = weight_layers(network.arch)
    model = simulated(network, inputs, ranges=ranges, weights=weights, float_layers=float_layers)
    few = _evenly(network.arch, inputs)
    wanted = _means(network, few, names)
    corrected = Rescaling(network).network()  # with a bias in every convolution

    def correct(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        change = wanted[name] - _mean(output)
        corrected.get_submodule(name).bias.add_(change)  # type: ignore[operator]
        return output + change.to(output.dtype).reshape(1, -1, *(1,) * (output.ndim - 2))

    for name in names:
        module = model.network.get_submodule(name)
        # Before the hook that rounds: the bias belongs to what is rounded.
        module.register_forward_hook(partial(correct, name), prepend=True)
    model(few)
    return corrected


def _evenly(arch: Arch, inputs: Tensor) -> Tensor:
    count = min(len(inputs), max(FEWEST, LARGEST // largest_activation(arch)))
    return inputs[torch.arange(count) * len(inputs) // count]


def _means(network: Network, inputs: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """Return the mean of each channel that the layers give, float64 (channels,)."""
    sums: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + _mean(output) * len(output)

    observe(network, inputs, names, take)
    return {name: total / len(inputs) for name, total in sums.items()}


def _mean(output: Tensor) -> Tensor:
    dims = [dim for dim in range(output.ndim) if dim != 1]
    return output.mean(dim=dims, dtype=torch.float64)

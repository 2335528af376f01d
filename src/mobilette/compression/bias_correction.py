"""Bias correction: each layer's mean int8 error is subtracted from its bias.

Nagel et al. 2019, arXiv 1906.04721, section 4.2: rounding the weights shifts a layer's mean output
from E[W x] to E[W_int8 x]. Both means are measured on images, as in appendix D for networks without
batch norm.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor, nn

from mobilette.arguments import checked
from mobilette.compression.float_layers import weight_layers
from mobilette.compression.observation import check_inputs, largest_activation, observe
from mobilette.compression.ranges import Ranges
from mobilette.compression.rescaling import Rescaling
from mobilette.compression.simulation import WeightScales, simulated
from mobilette.model.model import Model

# Values in the largest activation over all images: 256 MiB of float32.
LARGEST_ACTIVATION = 2**26
FEWEST_IMAGES = 16


@checked
@torch.no_grad()
def correct_biases(
    model: Model,
    inputs: Tensor,
    *,
    ranges: Ranges,
    weights: WeightScales = "per_channel",
    float_layers: Collection[str] = (),
) -> Model:
    """Return ``model`` with biases corrected for int8; in float it answers worse.

    Layer by layer in execution order, each channel's mean int8 output is shifted to its float mean,
    which also corrects the remaining errors of earlier layers. Batch norms must be folded.

    A layer sees all images at once, so only as many of ``inputs`` (normalised, float (N, C, H, W))
    as fit in memory are used, evenly spaced: 50 for MobileNetV2 at 224 pixels, thousands at 32.

    Raises:
        InputError: ``inputs`` do not fit the network, or it has no such layer.
    """
    check_inputs(model.arch, inputs)
    names = weight_layers(model.arch)
    fitting = LARGEST_ACTIVATION // largest_activation(model.arch)
    count = min(len(inputs), max(FEWEST_IMAGES, fitting))
    chosen = inputs[torch.arange(count) * len(inputs) // count]
    int8 = simulated(model, inputs, ranges=ranges, weights=weights, float_layers=float_layers)
    wanted = _mean_outputs(model, chosen, names)
    corrected = Rescaling(model)  # every convolution has a bias

    def correct(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        change = wanted[name] - _channel_means(output)
        corrected.weights[f"{name}.bias"] += change
        return output + change.to(output.dtype).reshape(1, -1, *(1,) * (output.ndim - 2))

    for name in names:
        module = int8.network.get_submodule(name)
        # Runs before the hook that rounds: the bias is added before rounding.
        module.register_forward_hook(partial(correct, name), prepend=True)
    int8(chosen)
    return corrected.model()


def _mean_outputs(model: Model, inputs: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """Return the mean of each layer's output channels, float64 (channels,)."""
    sums: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + _channel_means(output) * len(output)

    observe(model.network, inputs, names, take)
    return {name: total / len(inputs) for name, total in sums.items()}


def _channel_means(output: Tensor) -> Tensor:
    dims = [dim for dim in range(output.ndim) if dim != 1]
    return output.mean(dim=dims, dtype=torch.float64)

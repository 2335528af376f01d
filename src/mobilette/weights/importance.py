"""How much each channel contributes to the layers that read it, told from the weights alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mobilette.arch.arch import Arch
from mobilette.arch.channels import is_depthwise
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
)
from mobilette.arch.rows import Activation

# Mean and variance of every channel, float64 (channels,) each.
Moments = tuple[Tensor, Tensor]


@torch.no_grad()
def contributions(arch: Arch, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, for every layer that reads channels, the share of each input in what it computes.

    An input's share is its mean square times the sum of the squares of the weights that read it,
    divided by the sum over all inputs of the layer, so that layers can be compared: float64
    (inputs,) for each convolution (depthwise ones left out) and linear layer. This joins the norm
    of a filter (Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1) with the
    scale of the batch norm behind it (Liu et al. 2017, "Learning Efficient Convolutional Networks
    through Network Slimming"); as in Molchanov et al. 2019, "Importance Estimation for Neural
    Network Pruning" (section 3.2), what a channel does at several layers is added up by the caller.

    The mean squares are estimates: a batch norm's output is taken as normal with its shift as mean
    and its scale as deviation, an activation's moments are integrated over that, and sums are of
    independent terms.
    """
    moments: dict[str, Moments] = {
        INPUT: (torch.zeros(arch.in_channels).double(), torch.ones(arch.in_channels).double())
    }
    shares: dict[str, Tensor] = {}
    for layer in layers(arch):
        inputs = [moments[name] for name in layer.inputs]
        if isinstance(layer, LinearLayer) or (
            isinstance(layer, ConvLayer) and not is_depthwise(layer)
        ):
            mean, variance = inputs[0]
            energy = (mean**2 + variance) * _energy_of_readers(layer, weights)
            shares[layer.name] = energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
        moments[layer.name] = _moments(layer, inputs, weights, arch.norm_epsilon)
    return shares


def _energy_of_readers(layer: ConvLayer | LinearLayer, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the squares of the weights that read each input, (inputs,)."""
    return _by_group(layer, weights).square().sum(dim=(1, 3)).flatten()


def _by_group(layer: ConvLayer | LinearLayer, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the weights as float64 (groups, outputs / groups, inputs / groups, pixels)."""
    weight = weights[f"{layer.name}.weight"].double()
    groups = layer.groups if isinstance(layer, ConvLayer) else 1
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)


def _moments(
    layer: AnyLayer, inputs: list[Moments], weights: Mapping[str, Tensor], epsilon: float
) -> Moments:
    """Return the moments of the layer's output."""
    mean, variance = inputs[0]
    match layer:
        case ConvLayer() | LinearLayer():
            return _computed(layer, inputs[0], weights)
        case NormLayer():
            scale, shift, measured = (
                weights[f"{layer.name}.{tensor}"].double()
                for tensor in ("weight", "bias", "running_var")
            )
            return shift, scale**2 * measured / (measured + epsilon)
        case ActivationLayer():
            return _activated(inputs[0], layer.function)
        case AddLayer():
            means, variances = zip(*inputs, strict=True)
            return torch.stack(means).sum(dim=0), torch.stack(variances).sum(dim=0)
        case ConcatLayer():
            return torch.cat([m for m, _ in inputs]), torch.cat([v for _, v in inputs])
        case SliceLayer():
            return mean[layer.begin : layer.end], variance[layer.begin : layer.end]
        case ShuffleLayer():
            return _shuffled(mean, layer.groups), _shuffled(variance, layer.groups)
        case SubsampleLayer():
            half = (layer.shape[0] - len(mean)) // 2
            return functional.pad(mean, (half, half)), functional.pad(variance, (half, half))
        case FlattenLayer():
            pixels = layer.shape[0] // len(mean)
            return mean.repeat_interleave(pixels), variance.repeat_interleave(pixels)
        case _:  # pools and scales change all channels by about the same
            return mean, variance


def _computed(
    layer: ConvLayer | LinearLayer, moments: Moments, weights: Mapping[str, Tensor]
) -> Moments:
    """Return the moments of a weighted sum of independent inputs."""
    weight = _by_group(layer, weights)
    mean, variance = (moment.reshape(len(weight), -1, 1) for moment in moments)
    total = (weight.sum(dim=3) @ mean).flatten()
    bias = weights.get(f"{layer.name}.bias")
    if bias is not None:
        total = total + bias.double()
    return total, (weight.square().sum(dim=3) @ variance).flatten()


def _activated(moments: Moments, function: Activation) -> Moments:
    """Return the moments of an activation of normal variables, integrated over +-6 deviations."""
    mean, variance = moments
    normal = torch.linspace(-6, 6, 121, dtype=torch.float64)
    density = torch.exp(-(normal**2) / 2)
    density /= density.sum()
    x = mean[:, None] + variance.sqrt()[:, None] * normal
    functions = {
        "none": lambda x: x,
        "relu": functional.relu,
        "relu6": functional.relu6,
        "hard_swish": functional.hardswish,
        "hard_sigmoid": functional.hardsigmoid,
    }
    y = functions[function](x)
    activated = y @ density
    return activated, (y - activated[:, None]).square() @ density


def _shuffled(x: Tensor, groups: int) -> Tensor:
    return x.reshape(groups, -1).T.flatten()

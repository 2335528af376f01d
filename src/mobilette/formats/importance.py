"""Each channel's contribution to the layers that read it, estimated from the weights alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mobilette.arch import primitives
from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, AnyLayer
from mobilette.arch.rows import Activation

# Mean and variance per channel, each float64 (channels,).
Moments = tuple[Tensor, Tensor]


@torch.no_grad()
def contributions(arch: Arch, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, for every layer that reads channels, each input's share in its output.

    A share is the input's mean square times the sum of squares of the weights that read it, divided
    by the sum over all inputs so that layers are comparable: float64 (inputs,) for each linear
    layer and each convolution except depthwise ones. Before a batch norm, the variance replaces the
    mean square, since the norm's statistics absorb a constant.

    This combines the weight norm (Li et al. 2017, "Pruning Filters for Efficient ConvNets", arXiv
    1608.08710: there of the filter that computes the channel) with the batch norm's scale (Liu et
    al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", arXiv
    1708.06519).
    Mean and variance are those of `estimated_moments`.
    """
    moments = estimated_moments(arch, weights)
    shares: dict[str, Tensor] = {}
    normed = {layer.inputs[0] for layer in layers(arch) if isinstance(layer, primitives.NormLayer)}
    for layer in layers(arch):
        if isinstance(layer, primitives.LinearLayer) or (
            isinstance(layer, primitives.ConvLayer) and not layer.is_depthwise
        ):
            mean, variance = moments[layer.inputs[0]]
            strength = variance if layer.name in normed else mean**2 + variance
            squares = _by_group(layer, weights).square().sum(dim=(1, 3)).flatten()
            energy = strength * squares
            shares[layer.name] = energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    return shares


@torch.no_grad()
def estimated_moments(arch: Arch, weights: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Return an estimate of each channel's mean and variance at every layer and the ``input``.

    A batch norm's output is taken as normal, with its shift as mean and its scale as deviation; an
    activation's moments are integrated over that. A convolution without batch norm has its bias as
    mean and its filter's norm, relative to its inputs, as deviation. Terms of a sum are taken as
    independent.
    """
    moments: dict[str, Moments] = {
        INPUT: (torch.zeros(arch.in_channels).double(), torch.ones(arch.in_channels).double())
    }
    for layer in layers(arch):
        inputs = [moments[name] for name in layer.inputs]
        moments[layer.name] = _moments(layer, inputs, weights, arch.norm_epsilon)
    return moments


def _by_group(
    layer: primitives.ConvLayer | primitives.LinearLayer, weights: Mapping[str, Tensor]
) -> Tensor:
    """Return the weights as float64 (groups, outputs / groups, inputs / groups, pixels)."""
    weight = weights[f"{layer.name}.weight"].double()
    groups = layer.groups if isinstance(layer, primitives.ConvLayer) else 1
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)


def _moments(
    layer: AnyLayer, inputs: list[Moments], weights: Mapping[str, Tensor], epsilon: float
) -> Moments:
    mean, variance = inputs[0]
    match layer:
        case primitives.ConvLayer() | primitives.LinearLayer():
            return _computed(layer, inputs[0], weights)
        case primitives.NormLayer():
            scale, shift, measured = (
                weights[f"{layer.name}.{tensor}"].double()
                for tensor in ("weight", "bias", "running_var")
            )
            return shift, scale**2 * measured / (measured + epsilon)
        case primitives.ActivationLayer():
            return _activated(inputs[0], layer.function)
        case primitives.AddLayer():
            means, variances = zip(*inputs, strict=True)
            return torch.stack(means).sum(dim=0), torch.stack(variances).sum(dim=0)
        case primitives.ConcatLayer():
            return torch.cat([m for m, _ in inputs]), torch.cat([v for _, v in inputs])
        case primitives.SliceLayer():
            return mean[layer.begin : layer.end], variance[layer.begin : layer.end]
        case primitives.ShuffleLayer():
            return _shuffled(mean, layer.groups), _shuffled(variance, layer.groups)
        case primitives.SubsampleLayer():
            half = (layer.shape[0] - len(mean)) // 2
            return functional.pad(mean, (half, half)), functional.pad(variance, (half, half))
        case primitives.FlattenLayer():
            pixels = layer.shape[0] // len(mean)
            return mean.repeat_interleave(pixels), variance.repeat_interleave(pixels)
        case _:  # pools and scales change all channels about equally
            return mean, variance


def _computed(
    layer: primitives.ConvLayer | primitives.LinearLayer,
    moments: Moments,
    weights: Mapping[str, Tensor],
) -> Moments:
    """Return the moments of a sum with weights of random sign (He et al. 2015, section 2.2)."""
    weight = _by_group(layer, weights)
    mean, variance = moments
    squares = (mean**2 + variance).reshape(len(weight), -1, 1)
    computed = (weight.square().sum(dim=3) @ squares).flatten()
    bias = weights.get(f"{layer.name}.bias")
    return (torch.zeros_like(computed) if bias is None else bias.double()), computed


def _activated(moments: Moments, function: Activation) -> Moments:
    """Return the moments of an activation of normal variables, integrated over ±6 deviations."""
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
        "sigmoid": torch.sigmoid,
    }
    y = functions[function](x)
    activated = y @ density
    return activated, (y - activated[:, None]).square() @ density


def _shuffled(x: Tensor, groups: int) -> Tensor:
    return x.reshape(groups, -1).T.flatten()

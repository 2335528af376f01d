"""Cross-layer equalisation and absorption of high biases.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv
1906.04721.

Equalisation, section 4.1: where f(s * x) = s * f(x), a channel may be computed s times smaller and
read s times larger (equations 7 and 8). With r1 the range of the weights that compute it and r2
that of the weights that read it, s = sqrt(r1 * r2) / r2 makes both equal, which is optimal
(equation 11). This is repeated over all pairs of layers until it converges.

Here a pair is a group of `mobilette.arch.channels.scaling_groups`: the layers that compute some
channels and the layers that read them, through additions, concatenations, shuffles and pools. Where
residual additions tie the outputs of several layers, a channel has one scale in all of them, and r1
and r2 are geometric means over the layers. A depthwise convolution is the second layer of one pair
and the first of the next.

Absorption, section 4.1.3: equalisation may leave a channel with a high bias, and all channels of an
activation share one range. For x >= c, relu(x) = relu(x - c) + c, so c moves from the bias of the
layer that computes x into the bias of the layer that reads it, as W * c (equations 13 to 15).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, Side, scaling_groups
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
from mobilette.arguments import checked
from mobilette.compression.observation import check_inputs, observe
from mobilette.compression.rescaling import Rescaling, widen
from mobilette.model.model import Model

ReLU6 = Literal["auto", "widen", "keep"]

# Margin below ReLU6's cap of 6: other images may give larger inputs.
MARGIN = 1.25
CAP = 6.0
# A group that changes by less than CONVERGED waits until a neighbour changes by more.
CONVERGED, ROUNDS = 0.01, 50
# Weights below this fraction of their layer's largest count as zero.
NEGLIGIBLE = 1e-8
# c lies this many standard deviations below the mean: 99.865% of normal values exceed it.
DEVIATIONS = 3.0


@checked
def equalise(model: Model, inputs: Tensor, *, relu6: ReLU6 = "auto") -> Model:
    """Return an equivalent of ``model`` with similar weight ranges in all channels.

    Without ReLU6 it is exact up to rounding, for every image. Channels that pass a hard-swish or
    hard-sigmoid stay as they are. ReLU6 allows scaling only below its cap, measured on ``inputs``:

    - ``auto``: a ReLU6 whose inputs stay below 4.8 (6 with a margin) becomes a ReLU. Any other
      stays: channels above 4.8 are not scaled, which is exact everywhere; the rest are scaled to
      stay below 4.8, which is exact for values below 4.8 before and after.
    - ``keep``: like ``auto``, but every ReLU6 stays.
    - ``widen``: every ReLU6 becomes a ReLU, which changes the result where values reached 6.

    ``model`` must have its batch norms folded; ``inputs`` are normalised, float (N, C, H, W).

    Raises:
        InputError: ``inputs`` do not fit the network.
    """
    check_inputs(model.arch, inputs)
    rescaling = Rescaling(model)
    arch = rescaling.arch
    peaks = _measure_peaks(model, inputs) if relu6 != "widen" else {}
    if relu6 != "keep":
        low = {name: bool(peak.max() * MARGIN <= CAP) for name, peak in peaks.items()}
        arch = widen(arch, low if relu6 == "auto" else None)
    kept = {layer.name for layer in _relu6_layers(arch)}
    groups = [
        (group, _room(group, {name: peaks[name] for name in kept if name in peaks}))
        for group in scaling_groups(arch)
    ]
    changed = {layer.name for layer in layers(arch)}
    for _ in range(ROUNDS):
        before, changed = changed, set()
        for group, room in groups:
            touched = {place.layer for place in group.places if place.side != "through"}
            near = touched & (before | changed)
            if near and _equalise(rescaling, group, room) > CONVERGED:
                changed |= touched
        if not changed:
            break
    return rescaling.model(arch)


def _equalise(rescaling: Rescaling, group: ChannelGroup, room: Tensor) -> float:
    """Scale a group's channels and update ``room``; return the largest change, as a logarithm."""
    computed = _mean_range(rescaling, group, "output")
    read = _mean_range(rescaling, group, "input")
    alive = (computed > 0) & (read > 0)
    wanted = torch.where(alive, (read / computed).sqrt(), 1.0)
    if alive.any():
        # Channels that nothing computes or reads only have to be no larger than the rest.
        wanted = torch.where(computed == 0, (read / read[alive].amax()).clamp_min(1.0), wanted)
        wanted = torch.where(read == 0, (computed[alive].amax() / computed).clamp_max(1.0), wanted)
    factors = torch.where(room > 0, torch.minimum(wanted, room), 1.0)
    rescaling.scale(group, factors)
    room /= factors
    return float(factors.log().abs().max())


def _mean_range(rescaling: Rescaling, group: ChannelGroup, side: Side) -> Tensor:
    """Return each channel's geometric mean range over the layers with weights for it, or 0."""
    ranges = torch.stack(
        [rescaling.ranges(group, place) for place in group.places if place.side == side]
        or [torch.zeros(group.size).double()]
    )
    counts = ranges > NEGLIGIBLE * ranges.amax(dim=1, keepdim=True)
    logs = torch.where(counts, ranges, 1.0).log().sum(dim=0)
    number = counts.sum(dim=0)
    return torch.where(number > 0, (logs / number.clamp_min(1)).exp(), 0.0)


def _room(group: ChannelGroup, peaks: Mapping[str, Tensor]) -> Tensor:
    """Return the factor by which each channel may grow, (size,); 0 if it must not change."""
    room = torch.full((group.size,), torch.inf).double()
    for place in group.places:
        if place.side == "through" and place.layer in peaks:
            peak = peaks[place.layer][torch.tensor(group.places[place])].double()
            allowed = CAP / (MARGIN * peak.clamp_min(torch.finfo(peak.dtype).tiny))
            room = torch.minimum(room, torch.where(allowed >= 1, allowed, 0.0))
    return room


def _relu6_layers(arch: Arch) -> list[ActivationLayer]:
    return [
        layer
        for layer in layers(arch)
        if isinstance(layer, ActivationLayer) and layer.function == "relu6"
    ]


def _measure_peaks(model: Model, inputs: Tensor) -> dict[str, Tensor]:
    """Return the largest input of every ReLU6 by channel, (channels,)."""
    given = {layer.inputs[0]: layer.name for layer in _relu6_layers(model.arch)}
    peaks: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        largest = output.transpose(0, 1).flatten(1).amax(dim=1).cpu()
        before = peaks.get(given[name], largest)
        peaks[given[name]] = torch.maximum(before, largest)

    if given:
        observe(model.network, inputs, given, take)
    return peaks


@checked
def absorb_high_biases(model: Model, inputs: Tensor) -> Model:
    """Return ``model`` with a constant c of each channel moved into the layers that read it.

    c = max(0, mean - 3 std) of a ReLU's input, measured on ``inputs`` (normalised, float
    (N, C, H, W)), but at most its minimum, so that the answers to ``inputs`` stay. (The paper
    takes mean and deviation from the batch norm and assumes normal values; measured ones often
    have a longer tail.) Batch norms must be folded.

    Only channels that one layer computes, that pass a ReLU, and that only 1x1 convolutions or
    linear layers read, directly or through pools, are changed: a larger kernel would read padding
    zeros without c.

    Raises:
        InputError: ``inputs`` do not fit the network.
    """
    check_inputs(model.arch, inputs)
    movable = _movable(model.arch)
    amounts: dict[str, Tensor] = {}
    moments = _measure_moments(model, inputs, sorted({name for name, _ in movable}))
    for name, (mean, deviation, least) in moments.items():
        amounts[name] = torch.minimum(mean - DEVIATIONS * deviation, least).clamp_min(0.0)
    rescaling = Rescaling(model)
    for name, group in movable:
        rescaling.shift(group, amounts[name][torch.tensor(group.outputs[name])])
    return rescaling.model()


def _movable(arch: Arch) -> list[tuple[str, ChannelGroup]]:
    """Return the groups whose constant can be moved, each with the layer that computes it."""
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
        if all(_passes_constants(by_name[other]) for other in (*through, *group.inputs)):
            found.append((name, group))
    return found


def _passes_constants(layer: AnyLayer) -> bool:
    """Whether a constant added to the layer's input adds a constant to its output."""
    if isinstance(layer, ConvLayer):
        return layer.kernel == 1
    if isinstance(layer, PoolLayer):
        return layer.function == "max" or not (layer.padding or layer.ceil_mode)
    if isinstance(layer, ActivationLayer):
        return layer.function == "relu"
    return isinstance(layer, LinearLayer | AdaptivePoolLayer | ShuffleLayer | SliceLayer)


def _measure_moments(
    model: Model, inputs: Tensor, names: list[str]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return mean, standard deviation and minimum of each layer's output channels, float64."""
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
        observe(model.network, inputs, names, take)
    moments = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        moments[name] = mean, (squares / count - mean.square()).clamp_min(0).sqrt(), least[name]
    return moments

"""Cross-layer equalisation: channels scaled until one scale for all of a layer's weights fits them.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv
1906.04721, section 4.1: where f(s * x) = s * f(x), a channel may be computed s times smaller and
read s times larger (equations 7 and 8). With r1 the range of the weights that compute it and r2 of
those that read it, s = sqrt(r1 * r2) / r2 makes the two equal, which is best for both (equation
11). It is repeated over all pairs until nothing changes any more.

Here a pair is a group of `mobilette.arch.channels`: the layers that compute channels and those that
read them, through additions, concatenations, shuffles and pools. Where residual additions tie the
outputs of several layers, a channel has one scale in all of them, and r1 and r2 are geometric means
over the layers. A depthwise convolution is the second of one pair and the first of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, Place, Side, scaling_groups
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
from mobilette.compression.rescaling import Rescaling, widen
from mobilette.errors import one_of
from mobilette.nn.network import Network

ReLU6 = Literal["auto", "widen", "keep"]

# What a ReLU6 was given must stay this much below its 6: other images may give it more.
MARGIN = 1.25
CAP = 6.0
# A group whose channels change by less is left until its neighbours change by more.
CONVERGED, ROUNDS = 0.01, 50
# Weights this much smaller than the largest of their layer are as good as none.
NOTHING = 1e-8
# c is this many standard deviations below the mean: normal values exceed it 99.865% of the time.
DEVIATIONS = 3.0


def equalise(network: Network, inputs: Tensor, *, relu6: ReLU6 = "auto") -> Network:
    """Return the network that answers as ``network`` does, with channels of like ranges.

    What goes through a hard-swish or hard-sigmoid is left alone. Exact up to rounding, for every
    image, where no ReLU6 is involved. A ReLU6 is, too, as long as no value reaches the 6, and
    that is known of ``inputs`` alone:

    - ``auto``: where nothing that a ReLU6 is given exceeds 4.8 (6 with a margin), it becomes a
      ReLU. Where something does, it stays; the channels that exceed 4.8 are left alone, which is
      exact everywhere, and the others are scaled such that they stay below 4.8, which is exact for
      values below 4.8 before and after.
    - ``keep``: as ``auto``, but no ReLU6 becomes a ReLU.
    - ``widen``: every ReLU6 becomes a ReLU: another function, where values reached the 6.

    Args:
        network: with batch norms folded; it is left alone.
        inputs: normalised images, float (N, C, H, W), on which what reaches a ReLU6 is measured.
        relu6: what becomes of ReLU6.

    Raises:
        InputError: no images, or not of the network's size.
    """
    one_of(relu6, ("auto", "widen", "keep"), "relu6")
    check_inputs(network.arch, inputs)
    rescaling = Rescaling(network)
    arch, peaks = rescaling.arch, {}
    if relu6 != "widen":
        peaks = _measure_peaks(network, inputs)
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
    return rescaling.network(arch)


def _equalise(rescaling: Rescaling, group: ChannelGroup, room: Tensor) -> float:
    """Scale the channels of a group; return the largest change, as a natural logarithm.

    ``room``, by what each may still grow, is brought up to date.
    """
    computed = _mean_range(rescaling, group, "output")
    read = _mean_range(rescaling, group, "input")
    alive = (computed > 0) & (read > 0)
    wanted = torch.where(alive, (read / computed).sqrt(), 1.0)
    if alive.any():
        # What is computed by nothing, or read by nothing, only has to be no larger than the rest.
        wanted = torch.where(computed == 0, (read / read[alive].amax()).clamp_min(1.0), wanted)
        wanted = torch.where(read == 0, (computed[alive].amax() / computed).clamp_max(1.0), wanted)
    factors = torch.where(room > 0, torch.minimum(wanted, room), 1.0)
    rescaling.scale(group, factors)
    room /= factors
    return float(factors.log().abs().max())


def _mean_range(rescaling: Rescaling, group: ChannelGroup, side: Side) -> Tensor:
    """Return the geometric mean over a group's layers of each channel's range, (size,).

    A layer in which the channel has no weights does not count; it is 0 where none has any.
    """
    ranges = torch.stack(
        [rescaling.ranges(group, place) for place in _places(group, side)]
        or [torch.zeros(group.size).double()]
    )
    counts = ranges > NOTHING * ranges.amax(dim=1, keepdim=True)
    logs = torch.where(counts, ranges, 1.0).log().sum(dim=0)
    number = counts.sum(dim=0)
    return torch.where(number > 0, (logs / number.clamp_min(1)).exp(), 0.0)


def _places(group: ChannelGroup, side: Side) -> Iterator[Place]:
    return (place for place in group.places if place.side == side)


def _room(group: ChannelGroup, peaks: Mapping[str, Tensor]) -> Tensor:
    """Return by what each channel of a group may grow, (size,): 0 where it must stay as it is."""
    room = torch.full((group.size,), torch.inf).double()
    for place in _places(group, "through"):
        if place.layer in peaks:
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


def _measure_peaks(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    """Return the largest value of each channel (channels,) that every ReLU6 is given."""
    given = {layer.inputs[0]: layer.name for layer in _relu6_layers(network.arch)}
    peaks: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        largest = output.transpose(0, 1).flatten(1).amax(dim=1).cpu()
        before = peaks.get(given[name], largest)
        peaks[given[name]] = torch.maximum(before, largest)

    if given:
        observe(network, inputs, given, take)
    return peaks


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

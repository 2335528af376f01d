"""A network that answers as integer engines do, in float: every int8 value is rounded to its step.

One module serves all: what int8 costs, by layer or together; the mean error that biases correct;
and quantisation-aware training, whose gradients pass the rounding straight (Jacob et al. 2018,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv 1712.05877, section 3).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AnyLayer,
    FlattenLayer,
    PoolLayer,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
)
from mobilette.compression.float_layers import check_float_layers, in_float
from mobilette.compression.observation import observe
from mobilette.compression.ranges import BINS, RANGES, STEPS, Ranges, histogram_range
from mobilette.errors import InputError, one_of
from mobilette.nn.network import Network

WeightScales = Literal["per_channel", "per_tensor"]
Range = tuple[float, float]

# Activations that every engine executes as the end of the layer before them.
FUSED = ("relu", "relu6")


def simulated(
    network: Network,
    inputs: Tensor,
    *,
    ranges: Ranges = "minmax",
    weights: WeightScales = "per_channel",
    layers: Collection[str] | None = None,
    float_layers: Collection[str] = (),
) -> Simulated:
    """Return ``network`` as an integer engine would execute it, calibrated on ``inputs``.

    Args:
        network: with batch norms folded, in evaluation mode; it is left alone.
        inputs: normalised images, float (N, C, H, W).
        ranges: how the ranges of activations are chosen.
        weights: one scale for each output channel, or one for all weights of a layer.
        layers: names of the layers that are int8; all where it is ``None``.
        float_layers: convolutions and linear layers that are not.

    Raises:
        InputError: no images, not of the network's size, or no such layer.
    """
    chosen = int8_layers(network.arch, layers, float_layers)
    calibrated = calibrate(network, inputs, ranges, int8_tensors(network.arch, chosen))
    return Simulated(network, calibrated, int8=chosen, weights=weights)


class Simulated(nn.Module):
    """A network with int8 weights and activations, as `simulated` makes it.

    Weights are symmetric, -127 to 127, with a scale that follows them when they are trained;
    activations are affine, 0 to 255, with ranges that stay. Biases are float: engines have them in
    int32, in steps that are finer by far. So are the logits.
    """

    def __init__(
        self,
        network: Network,
        calibrated: Mapping[str, Range],
        *,
        int8: Collection[str],
        weights: WeightScales = "per_channel",
    ) -> None:
        """Make the module.

        Args:
            network: with batch norms folded; it is copied.
            calibrated: the range of every tensor that is to be uint8, by the layer that makes it.
            int8: names of the layers that are computed in int8.
            weights: one scale for each output channel, or one for all weights of a layer.
        """
        super().__init__()
        one_of(weights, ("per_channel", "per_tensor"), "weights")
        self.network = copy.deepcopy(network)
        self._input = calibrated.get(INPUT)
        for name, module in list(self.network.named_modules()):
            if name in int8 and isinstance(module, nn.Conv2d | nn.Linear):
                rounding = _RoundWeights(per_channel=weights == "per_channel")
                parametrize.register_parametrization(module, "weight", rounding)
        for name, found in calibrated.items():
            if name != INPUT:
                module = self.network.get_submodule(name)
                module.register_forward_hook(partial(_round_output, found))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for normalised images ``x`` (N, C, H, W)."""
        if self._input is not None:
            x = round_activation(x, self._input)
        logits: Tensor = self.network(x)
        return logits

    def float_weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights before rounding, as a state dict of the network."""
        return {
            name.replace("parametrizations.weight.original", "weight"): tensor.detach().clone()
            for name, tensor in self.network.state_dict().items()
        }


class _RoundWeights(nn.Module):
    def __init__(self, *, per_channel: bool) -> None:
        super().__init__()
        self.per_channel = per_channel

    def forward(self, weight: Tensor) -> Tensor:
        limits = weight.detach().abs().flatten(1).amax(dim=1)
        if not self.per_channel:
            limits = limits.amax().expand_as(limits)
        scales = (limits / 127).clamp_min(torch.finfo(torch.float32).tiny)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)


def round_activation(x: Tensor, found: Range) -> Tensor:
    """Return ``x`` with its values at the steps of uint8 in a range; gradients pass inside it."""
    low, high = found
    scale = (high - low) / STEPS or 1.0
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, STEPS)


def _round_output(found: Range, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return round_activation(output, found)


def int8_layers(
    arch: Arch, chosen: Collection[str] | None = None, float_layers: Collection[str] = ()
) -> frozenset[str]:
    """Return the names of the layers that are computed in int8, activations with theirs.

    What follows ``float_layers`` in float is what exporters leave in float, too (`in_float`).

    Raises:
        InputError: no such layer, or one of ``float_layers`` has no weights.
    """
    names = [layer.name for layer in layers(arch)]
    check_float_layers(arch, frozenset(float_layers))
    if chosen is None:
        return frozenset(names) - in_float(arch, frozenset(float_layers))
    for name in chosen:
        one_of(name, names, f"{arch.name}: layer")
    int8 = set(chosen) - set(float_layers)
    for layer in layers(arch):
        if isinstance(layer, ActivationLayer):
            (int8.add if layer.inputs[0] in int8 else int8.discard)(layer.name)
    return frozenset(int8)


def int8_tensors(arch: Arch, int8: Collection[str]) -> tuple[str, ...]:
    """Return the layers (or ``input``) whose output is uint8 when the layers ``int8`` are int8.

    It is where the layer that makes it or one that reads it is computed in int8: a layer in float
    next to one in int8 has int8 at that side. What a layer gives to a ReLU or ReLU6 behind it is
    no tensor of its own; a hard-swish or hard-sigmoid is a layer like any other. Max pools, slices,
    shuffles and the like hand on what they get. Logits stay float.
    """
    makers: dict[str, str] = {INPUT: INPUT}
    uses: defaultdict[str, bool] = defaultdict(bool)
    for layer in layers(arch):
        sources = [makers[name] for name in layer.inputs]
        if _hands_on(layer):
            makers[layer.name] = sources[0]
            continue
        makers[layer.name] = layer.name
        uses[layer.name] = layer.name in int8
        if isinstance(layer, ActivationLayer) and layer.function in FUSED:
            uses.pop(sources[0])
            continue
        for source in sources:
            uses[source] |= layer.name in int8
    uses.pop(makers[layers(arch)[-1].name])
    return tuple(name for name, is_int8 in uses.items() if is_int8)


def _hands_on(layer: AnyLayer) -> bool:
    if isinstance(layer, PoolLayer):
        return layer.function == "max"
    return isinstance(layer, FlattenLayer | ShuffleLayer | SliceLayer | SubsampleLayer)


def calibrate(
    network: Network, inputs: Tensor, ranges: Ranges, names: Collection[str]
) -> dict[str, Range]:
    """Return the range of the output of each layer (or ``input``) ``names`` on ``inputs``.

    Raises:
        InputError: no images, not of the network's size, or a layer gives what is no number.
    """
    one_of(ranges, RANGES, "ranges")
    ends: dict[str, Range] = {}
    histograms: dict[str, NDArray[np.float64]] = {}

    def take_ends(name: str, output: Tensor) -> None:
        low, high = (float(end) for end in output.aminmax())
        if not np.isfinite((low, high)).all():
            raise InputError(f"{network.arch.name}: {name} gives values that are not finite")
        before = ends.get(name, (low, high))
        ends[name] = min(low, before[0]), max(high, before[1])

    def take_histogram(name: str, output: Tensor) -> None:
        low, high = ends[name]
        if high > low:
            counts = torch.histc(output.float(), BINS, low, high).cpu().double().numpy()
            histograms[name] = histograms.get(name, 0.0) + counts

    observe(network, inputs, names, take_ends)
    if ranges not in ("plain", "minmax"):
        observe(network, inputs, names, take_histogram)
    for name, counts in histograms.items():
        low, high = ends[name]
        ends[name] = histogram_range(ranges, counts, np.linspace(low, high, BINS + 1))
    # Zero is exact, as padding needs.
    return {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ends.items()}

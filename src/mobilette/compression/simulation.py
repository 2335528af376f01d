"""int8 inference simulated in float: values are rounded to an integer engine's steps.

It measures how int8 changes the answers, overall or by layer (`sensitivity`), and serves bias
correction and quantisation-aware training, where gradients pass straight through the rounding
(Jacob et al. 2018, arXiv 1712.05877, section 3).
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
from mobilette.compression.float_layers import check_float_layers, in_float, weight_layers
from mobilette.compression.observation import answers, check_inputs, observe
from mobilette.compression.ranges import BINS, RANGES, STEPS, Ranges, histogram_range
from mobilette.errors import InputError, one_of
from mobilette.model.model import Model

WeightScales = Literal["per_channel", "per_tensor"]
Range = tuple[float, float]

# Activations that every engine fuses into the layer before.
FUSED = ("relu", "relu6")


def simulated(
    model: Model,
    inputs: Tensor,
    *,
    ranges: Ranges = "minmax",
    weights: WeightScales = "per_channel",
    layers: Collection[str] | None = None,
    float_layers: Collection[str] = (),
) -> Simulated:
    """Return ``model`` as an integer engine executes it, calibrated on ``inputs``.

    ``model`` has its batch norms folded; ``inputs`` are normalised, float (N, C, H, W). ``layers``
    are the int8 layers (``None``: all), except the ``float_layers``.

    Raises:
        InputError: ``inputs`` do not fit the network, or it has no such layer.
    """
    chosen = int8_layers(model.arch, layers, float_layers)
    calibrated = calibrate(model, inputs, ranges, int8_tensors(model.arch, chosen))
    return Simulated(model, calibrated, int8=chosen, weights=weights)


class Simulated(nn.Module):
    """A network with int8 weights and activations, made by `simulated`.

    Weights are symmetric, -127 to 127, with scales that follow them in training; activations are
    affine, 0 to 255, with fixed ranges. Biases are float, because engines hold them in int32 with
    far finer steps, and so are the logits.
    """

    def __init__(
        self,
        model: Model,
        calibrated: Mapping[str, Range],
        *,
        int8: Collection[str],
        weights: WeightScales = "per_channel",
    ) -> None:
        """Round a copy of the network of ``model``, whose batch norms are folded.

        ``calibrated`` has the range of each uint8 tensor by the layer that makes it; ``int8`` are
        the names of the int8 layers.
        """
        super().__init__()
        one_of(weights, ("per_channel", "per_tensor"), "weights")
        self.arch = model.arch
        self.network = copy.deepcopy(model.network)
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
    """Return ``x`` rounded to the uint8 steps of a range; gradients pass inside the range."""
    low, high = found
    scale = (high - low) / STEPS or 1.0
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, STEPS)


def _round_output(found: Range, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return round_activation(output, found)


def int8_layers(
    arch: Arch, chosen: Collection[str] | None = None, float_layers: Collection[str] = ()
) -> frozenset[str]:
    """Return the names of the int8 layers; activations follow the layer before them.

    Exporters keep the same layers in float (`in_float`).

    Raises:
        InputError: there is no such layer, or one of ``float_layers`` has no weights.
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
    """Return the layers (or ``input``) with a uint8 output when the layers ``int8`` are int8.

    A tensor is uint8 if the layer that makes it or one that reads it is int8. ReLU and ReLU6 are
    fused, so the tensor before them does not exist; hard-swish and hard-sigmoid are ordinary
    layers. Max pools, slices, shuffles and the like pass their input on. Logits stay float.
    """
    makers: dict[str, str] = {INPUT: INPUT}
    uses: defaultdict[str, bool] = defaultdict(bool)
    for layer in layers(arch):
        sources = [makers[name] for name in layer.inputs]
        if _passes_on(layer):
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


def _passes_on(layer: AnyLayer) -> bool:
    if isinstance(layer, PoolLayer):
        return layer.function == "max"
    return isinstance(layer, FlattenLayer | ShuffleLayer | SliceLayer | SubsampleLayer)


def calibrate(
    model: Model, inputs: Tensor, ranges: Ranges, names: Collection[str]
) -> dict[str, Range]:
    """Return the output range of each layer (or ``input``) in ``names`` on ``inputs``.

    Raises:
        InputError: ``inputs`` do not fit the network, or an output is not finite.
    """
    one_of(ranges, RANGES, "ranges")
    ends: dict[str, Range] = {}
    histograms: dict[str, NDArray[np.float64]] = {}

    def take_ends(name: str, output: Tensor) -> None:
        low, high = (float(end) for end in output.aminmax())
        if not np.isfinite((low, high)).all():
            raise InputError(f"{model.arch.name}: the output of {name} is not finite")
        before = ends.get(name, (low, high))
        ends[name] = min(low, before[0]), max(high, before[1])

    def take_histogram(name: str, output: Tensor) -> None:
        low, high = ends[name]
        if high > low:
            counts = torch.histc(output.float(), BINS, low, high).cpu().double().numpy()
            histograms[name] = histograms.get(name, 0.0) + counts

    observe(model.network, inputs, names, take_ends)
    if ranges not in ("plain", "minmax"):
        observe(model.network, inputs, names, take_histogram)
    for name, counts in histograms.items():
        low, high = ends[name]
        ends[name] = histogram_range(ranges, counts, np.linspace(low, high, BINS + 1))
    # Padding needs an exact zero.
    return {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ends.items()}


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """How a model answers with one layer in int8.

    Attributes:
        signal_to_noise_db: mean square of the float logits over that of their error; infinite
            without error. With one class per image, each image's mean logit, which does not affect
            the answer, is subtracted first.
        accuracy: top-1, 0 to 1; ``None`` without labels.
    """

    layer: str
    signal_to_noise_db: float
    accuracy: float | None


def sensitivity(
    model: Model, inputs: Tensor, labels: NDArray[np.int64] | None, *, ranges: Ranges
) -> tuple[LayerSensitivity, ...]:
    """Return how much int8 in each convolution or linear layer changes the answers, worst first.

    Each layer is quantised alone (weights, input and output). Batch norms must be folded;
    ``inputs`` (normalised, float (N, C, H, W)) serve to calibrate and to measure; ``labels`` are
    their classes, (N,).

    Raises:
        InputError: ``inputs`` do not fit the network, or the number of labels differs.
    """
    arch = model.arch
    check_inputs(arch, inputs)
    if labels is not None and labels.shape != (len(inputs),):
        raise InputError(f"{len(inputs)} images need as many labels, not {labels.shape}")
    tensors = int8_tensors(arch, int8_layers(arch, weight_layers(arch)))
    calibrated = calibrate(model, inputs, ranges, tensors)
    wanted = answers(model, inputs)
    found = []
    for name in weight_layers(arch):
        int8 = int8_layers(arch, {name})
        near = {tensor: calibrated[tensor] for tensor in int8_tensors(arch, int8)}
        logits = answers(Simulated(model, near, int8=int8), inputs)
        accuracy, noise = None, signal_to_noise(wanted, logits)
        if labels is not None:
            noise = signal_to_noise(*(x - x.mean(dim=1, keepdim=True) for x in (wanted, logits)))
            accuracy = float((logits.argmax(dim=1).cpu().numpy() == labels).mean())
        found.append(LayerSensitivity(layer=name, signal_to_noise_db=noise, accuracy=accuracy))
    return tuple(sorted(found, key=lambda each: each.signal_to_noise_db))


def signal_to_noise(wanted: Tensor, logits: Tensor) -> float:
    """Return the mean square of ``wanted`` over that of the error of ``logits``, in decibels."""
    noise = float((logits.double() - wanted.double()).square().sum())
    signal = float(torch.sum(wanted.double().square()))
    return math.inf if noise == 0 else 10 * math.log10(max(signal / noise, 1e-30))

"""What int8 costs in each layer alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.compression.float_layers import weight_layers
from mobilette.compression.observation import answers, check_inputs
from mobilette.compression.ranges import Ranges
from mobilette.compression.simulation import Simulated, calibrate, int8_layers, int8_tensors
from mobilette.errors import InputError
from mobilette.nn.network import Network


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """What a network answers with one layer in int8.

    Attributes:
        layer: its name.
        signal_to_noise_db: mean square of the float network's logits over that of what int8
            changes in them, in decibels; infinite where nothing changes. Where an image is of one
            class, logits are taken less their mean: what all have in common is no answer.
        accuracy: top-1, a fraction; ``None`` where the images' classes are not known.
    """

    layer: str
    signal_to_noise_db: float
    accuracy: float | None


def sensitivity(
    network: Network, inputs: Tensor, labels: NDArray[np.int64] | None, *, ranges: Ranges
) -> tuple[LayerSensitivity, ...]:
    """Return what each convolution and linear layer does to the answers in int8, the worst first.

    Each is quantised alone, as an engine would: its weights, what it reads and what it gives.

    Args:
        network: with batch norms folded, in evaluation mode.
        inputs: normalised images, float (N, C, H, W), to calibrate with and to measure on.
        labels: their classes, (N,).
        ranges: how the ranges of activations are chosen.

    Raises:
        InputError: no images, not of the network's size, or not as many labels.
    """
    arch = network.arch
    check_inputs(arch, inputs)
    if labels is not None and labels.shape != (len(inputs),):
        raise InputError(f"{len(inputs)} images need as many labels, not {labels.shape}")
    tensors = int8_tensors(arch, int8_layers(arch, weight_layers(arch)))
    calibrated = calibrate(network, inputs, ranges, tensors)
    wanted = answers(network, inputs, arch)
    found = []
    for name in weight_layers(arch):
        int8 = int8_layers(arch, {name})
        near = {tensor: calibrated[tensor] for tensor in int8_tensors(arch, int8)}
        logits = answers(Simulated(network, near, int8=int8), inputs, arch)
        accuracy, noise = None, signal_to_noise(wanted, logits)
        if labels is not None:
            noise = signal_to_noise(_less_their_mean(wanted), _less_their_mean(logits))
            accuracy = float((logits.argmax(dim=1).cpu().numpy() == labels).mean())
        found.append(
            LayerSensitivity(
                layer=name,
                signal_to_noise_db=noise,
                accuracy=accuracy,
            )
        )
    return tuple(sorted(found, key=lambda each: each.signal_to_noise_db))


def _less_their_mean(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=1, keepdim=True)


def signal_to_noise(wanted: Tensor, logits: Tensor) -> float:
    """Return the mean square of ``wanted`` over that of what ``logits`` differ by, in decibels."""
    noise = float((logits.double() - wanted.double()).square().sum())
    signal = float(torch.sum(wanted.double().square()))
    return math.inf if noise == 0 else 10 * math.log10(max(signal / noise, 1e-30))

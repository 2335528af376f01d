"""Runs a checkpoint on images in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.arch.features import features_layer
from mobilette.counting.cost import cost
from mobilette.data.normalise import Normalise
from mobilette.data.store import Pixels
from mobilette.nn.network import Network

LARGEST_BATCH = 256
# Activations per batch; eager PyTorch holds about two or three times the counted bytes. On a CPU
# they should stay in its cache: larger batches take two to four times as long (docs/log.md).
ACTIVATION_BYTES, ON_CPU = 256 * 2**20, 16 * 2**20


def largest_batch(network: Network) -> int:
    """Return how many images may go through ``network`` at once."""
    peak = cost(network).peak_activation_bytes.fp32
    on_cpu = next(network.parameters()).device.type == "cpu"
    return min(max((ON_CPU if on_cpu else ACTIVATION_BYTES) // peak, 1), LARGEST_BATCH)


def checkpoint_logits(
    network: Network, normalise: Normalise, pixels: Pixels, *, at_once: int | None = None
) -> NDArray[np.float32]:
    """Return logits (N, classes), float32, for ``pixels`` uint8 (N, C, H, W), RGB or grey.

    Runs on the device of ``normalise``, in evaluation mode, in batches of at most ``at_once``.
    """
    size = min(largest_batch(network), at_once or LARGEST_BATCH)
    return logits_in_batches(network, normalise, pixels, size=size)


def logits_in_batches(
    network: Network, normalise: Normalise, pixels: Pixels, *, size: int
) -> NDArray[np.float32]:
    """Like `checkpoint_logits`, in batches of ``size``."""
    outputs = _in_batches(network, network, normalise, pixels, size=size)
    return _joined(outputs, width=network.arch.num_classes)


def features_in_batches(
    network: Network, normalise: Normalise, pixels: Pixels, *, size: int | None = None
) -> NDArray[np.float32]:
    """Return features (N, D), float32, as `checkpoint_logits` does logits; in batches of ``size``.

    They are those of `mobilette.arch.features.features_layer`.
    """

    def features(x: Tensor) -> Tensor:
        return network.with_features(x)[1]

    size = size or largest_batch(network)
    outputs = _in_batches(network, features, normalise, pixels, size=size)
    return _joined(outputs, width=features_layer(network.arch).shape[0])


@torch.inference_mode()
def _in_batches(
    network: Network,
    answer: Callable[[Tensor], Tensor],
    normalise: Normalise,
    pixels: Pixels,
    *,
    size: int,
) -> list[Tensor]:
    network.eval()
    outputs = []
    for first in range(0, len(pixels), size):
        batch = torch.from_numpy(pixels[first : first + size]).to(normalise.weight.device)
        x = normalise(batch).contiguous(memory_format=torch.channels_last)
        outputs.append(answer(x).float().cpu())
    return outputs


def _joined(outputs: list[Tensor], *, width: int) -> NDArray[np.float32]:
    if not outputs:
        return np.empty((0, width), np.float32)
    joined: NDArray[np.float32] = torch.cat(outputs).numpy()
    return joined

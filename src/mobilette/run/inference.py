"""Runs a checkpoint on images in batches."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilette.arch.features import features_layer
from mobilette.counting.cost import cost
from mobilette.data.ahead import computed_ahead
from mobilette.data.normalise import Normalise
from mobilette.data.store import Pixels
from mobilette.nn.inference import for_inference, has_hooks
from mobilette.nn.network import Network
from mobilette.nn.threads import torch_threads

LARGEST_BATCH = 256
# Activations per batch; eager PyTorch holds about two or three times the counted bytes. On a CPU
# they should stay in its cache: larger batches take two to four times as long (docs/log.md).
ACTIVATION_BYTES, ON_CPU = 256 * 2**20, 16 * 2**20
# Batches that Python's lock lets the cores of a CPU compute beside each other.
MOST_BESIDE = 8


def largest_batch(network: Network) -> int:
    """Return how many images may go through ``network`` at once."""
    peak = cost(network).peak_activation_bytes.fp32
    on_cpu = next(network.parameters()).device.type == "cpu"
    return min(max((ON_CPU if on_cpu else ACTIVATION_BYTES) // peak, 1), LARGEST_BATCH)


def checkpoint_logits(
    network: Network, normalise: Normalise, pixels: Pixels, *, at_once: int | None = None
) -> NDArray[np.float32]:
    """Return logits (N, classes), float32, for ``pixels`` uint8 (N, C, H, W), RGB or grey.

    They are those of `for_inference`, of at most ``at_once`` images at the same time.
    """
    return logits_in_batches(for_inference(network), normalise, pixels, at_once=at_once)


def logits_in_batches(
    network: Network, normalise: Normalise, pixels: Pixels, *, at_once: int | None = None
) -> NDArray[np.float32]:
    """Return logits as `checkpoint_logits` does, of ``network`` as it is.

    It runs on the device of ``normalise`` and is left in evaluation mode. On the CPU each of
    PyTorch's threads computes batches of its own, unless hooks see them: threads that share a layer
    wait for each other at its end, on a busy machine for far longer than it takes (docs/log.md).
    """
    outputs = _in_batches(network, network, normalise, pixels, at_once=at_once)
    return _joined(outputs, width=network.arch.num_classes)


def features_in_batches(
    network: Network, normalise: Normalise, pixels: Pixels
) -> NDArray[np.float32]:
    """Return features (N, D), float32, as `logits_in_batches` does logits.

    They are those of `mobilette.arch.features.features_layer`.
    """

    def features(x: Tensor) -> Tensor:
        return network.with_features(x)[1]

    outputs = _in_batches(network, features, normalise, pixels)
    return _joined(outputs, width=features_layer(network.arch).shape[0])


def _in_batches(
    network: Network,
    answer: Callable[[Tensor], Tensor],
    normalise: Normalise,
    pixels: Pixels,
    *,
    at_once: int | None = None,
) -> list[Tensor]:
    network.eval()
    threads, count, largest = torch.get_num_threads(), len(pixels), largest_batch(network)
    device, beside = normalise.weight.device, 1
    if device.type == "cpu" and not has_hooks(network):
        beside = max(min(threads, MOST_BESIDE, count, at_once or count), 1)
    if at_once is not None:
        largest = min(largest, max(at_once // beside, 1))
    # As many batches for each thread, of nearly the same size.
    batches = beside * -(-count // (beside * largest))
    size = -(-count // max(batches, 1))

    def compute(some: NDArray[np.uint8]) -> Tensor:
        with torch.inference_mode(), torch_threads(threads // beside):
            x = normalise(torch.from_numpy(some).to(device))
            return answer(x.contiguous(memory_format=torch.channels_last)).float().cpu()

    parts = (pixels[first : first + size] for first in range(0, count, max(size, 1)))
    if beside == 1:
        return [compute(part) for part in parts]
    pool = _pool(os.getpid(), beside)
    ahead = computed_ahead(compute, parts, threads=beside, ahead=beside + 1, lasting=pool)
    with closing(ahead) as answers:
        return [output for _, output in answers]


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return threads of ``process``, which stay: MKL locks what a thread that ends leaves behind.

    A process forked in that moment would wait for the lock forever.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="batches")


def _joined(outputs: list[Tensor], *, width: int) -> NDArray[np.float32]:
    if not outputs:
        return np.empty((0, width), np.float32)
    joined: NDArray[np.float32] = torch.cat(outputs).numpy()
    return joined

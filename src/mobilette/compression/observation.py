"""Runs a network in batches that fit in memory, and observes its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, NormLayer
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.nn.network import Network

if TYPE_CHECKING:
    from mobilette.compression.simulation import Simulated

# Values in a batch's largest activation: 64 MiB of float32.
LARGEST_BATCH = 2**24

# Called with a layer's name and output.
Take = Callable[[str, Tensor], None]


def check_inputs(arch: Arch, inputs: Tensor) -> None:
    """Raise `InputError` unless ``inputs`` are images for ``arch``, with batch norms folded."""
    norm = next((layer.name for layer in layers(arch) if isinstance(layer, NormLayer)), None)
    if norm is not None:
        raise InputError(f"{arch.name} has batch norms, such as {norm}; fold them first")
    if inputs.ndim != 4 or tuple(inputs.shape[1:]) != arch.shape:
        needed = ", ".join(map(str, arch.shape))
        raise InputError(f"images of shape {tuple(inputs.shape)}; (N, {needed}) is needed")
    if not len(inputs):
        raise InputError("there are no images to measure activations on; at least one is needed")


def batches_in_memory(arch: Arch, inputs: Tensor) -> Iterator[Tensor]:
    """Yield ``inputs`` (N, C, H, W), checked, in batches whose activations fit in memory."""
    check_inputs(arch, inputs)
    yield from torch.split(inputs, max(1, min(64, LARGEST_BATCH // largest_activation(arch))))


def largest_activation(arch: Arch) -> int:
    """Return the number of values in one image's largest activation."""
    return max(prod(layer.shape) for layer in layers(arch))


@torch.no_grad()
def observe(network: Network, inputs: Tensor, names: Iterable[str], take: Take) -> None:
    """Call ``take(name, output)`` with the output of each layer in ``names``, batch by batch.

    ``names`` are layers of `mobilette.arch.layers`, or ``input``. ``take`` must not keep the
    output, which the next layer may overwrite. ``inputs`` are checked (`check_inputs`).
    """
    names = list(names)
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: take(name, output)
        )
        for name in names
        if name != INPUT
    ]
    try:
        for batch in batches_in_memory(network.arch, inputs):
            if INPUT in names:
                take(INPUT, batch)
            network(batch)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def answers(model: Model | Simulated, inputs: Tensor) -> Tensor:
    """Return the logits, float (N, classes), for normalised images, checked by `check_inputs`."""
    network = model.network if isinstance(model, Model) else model
    return torch.cat([network(batch) for batch in batches_in_memory(model.arch, inputs)])

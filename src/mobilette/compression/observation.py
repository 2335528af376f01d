"""A network executed on images, in parts that fit the memory, while its layers are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, NormLayer
from mobilette.errors import InputError
from mobilette.nn.network import Network

# Values of the largest activation that are in the memory at once: 64 MiB of float32.
LARGEST_PART = 2**24

Take = Callable[[str, Tensor], None]


def check_inputs(arch: Arch, inputs: Tensor) -> None:
    """Raise `InputError` unless ``inputs`` are images that the network takes, at least one.

    Nor may it have batch norms left: what is measured and rounded is the network without them.
    """
    left = next((layer.name for layer in layers(arch) if isinstance(layer, NormLayer)), None)
    if left is not None:
        raise InputError(f"{arch.name}: batch norms are to be folded first, {left} is one")
    shape = (arch.in_channels, arch.resolution, arch.resolution)
    if inputs.ndim != 4 or tuple(inputs.shape[1:]) != shape:
        raise InputError(
            f"images of shape {tuple(inputs.shape)}; (N, {', '.join(map(str, shape))}) is needed"
        )
    if not len(inputs):
        raise InputError("there are no images to measure activations on; one at least is needed")


def parts(arch: Arch, inputs: Tensor) -> Iterator[Tensor]:
    """Yield ``inputs`` (N, C, H, W) in parts whose activations fit the memory.

    Raises:
        InputError: ``inputs`` are not images that the network takes, or there are none.
    """
    check_inputs(arch, inputs)
    count = max(1, min(64, LARGEST_PART // largest_activation(arch)))
    yield from torch.split(inputs, count)


def largest_activation(arch: Arch) -> int:
    """Return how many values the largest activation of one image has."""
    return max(prod(layer.shape) for layer in layers(arch))


@torch.no_grad()
def observe(network: Network, inputs: Tensor, names: Iterable[str], take: Take) -> None:
    """Call ``take(name, output)`` with what each layer ``names`` gives, part after part.

    Args:
        network: is executed as it is.
        inputs: normalised images, float (N, C, H, W).
        names: of `mobilette.arch.layers`, or ``input``.
        take: must not keep the output: the next layer may overwrite it.

    Raises:
        InputError: ``inputs`` are not images that the network takes, or there are none.
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
        for part in parts(network.arch, inputs):
            if INPUT in names:
                take(INPUT, part)
            network(part)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def answers(network: nn.Module, inputs: Tensor, arch: Arch) -> Tensor:
    """Return the logits, float (N, classes), of ``network`` for normalised images ``inputs``.

    Raises:
        InputError: ``inputs`` are not images that ``arch`` takes, or there are none.
    """
    return torch.cat([network(part) for part in parts(arch, inputs)])

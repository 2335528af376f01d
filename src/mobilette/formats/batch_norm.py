"""Batch norms given back to folded networks, and measured anew in sliced ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs, convs
from mobilette.arch.rows import Conv
from mobilette.errors import InputError
from mobilette.nn.network import Network, measure_statistics


def measure_batch_norm(
    arch: Arch, weights: Mapping[str, Tensor], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Return ``weights`` with the statistics of all batch norms measured on ``batches``.

    Args:
        arch: the network that ``weights`` are of.
        weights: its state dict; it is left alone.
        batches: normalised images, float (N, C, H, W); at least one batch.

    Raises:
        InputError: there is no batch.
    """
    network = _load(arch, weights)
    measure_statistics(network, _at_least_one(batches))
    return network.state_dict()


@torch.no_grad()
def restore_batch_norm(
    arch: Arch, weights: Mapping[str, Tensor], like: Arch, batches: Iterable[Tensor]
) -> tuple[Arch, dict[str, Tensor]]:
    """Return the folded network with the batch norms of ``like``, and its weights.

    The new network answers as the old one does; trained on, it has batch norms as ``like`` has.
    With mean m and variance v of a convolution's output without its bias b, measured on
    ``batches``, the batch norm has the statistics m and v, scale sqrt(v + eps) and shift b + m.

    Folding has left each channel's weights with a length of its own, and behind a batch norm the
    length is how fast they learn: a step of the same size turns short weights further (van
    Laarhoven 2017, arXiv 1706.05350, section 2). They get the length that trained weights have, and
    mean, variance and scale go with it.

    Args:
        arch: a network without some or all of the batch norms of ``like``, with biases instead.
        weights: its state dict; it is left alone.
        like: the same network with batch norms; epsilon and momentum are taken from it. It may
            differ in activations, padding, resolution and classes: these stay as in ``arch``.
        batches: normalised images, float (N, C, H, W); at least one batch.

    Raises:
        InputError: the convolutions of the two networks differ, or there is no batch.
    """
    missing = _missing_norms(arch, like)
    moments = _measure(_load(arch, weights), list(missing), _at_least_one(batches))
    restored = dict(weights)
    for name, conv in missing.items():
        mean, variance = moments[name]
        bias = restored.pop(f"{name}.conv.bias", torch.zeros_like(mean)).double()
        if conv.bias:
            restored[f"{name}.conv.bias"] = torch.zeros_like(bias).float()
        weight = restored[f"{name}.conv.weight"].double()
        factor = _to_usual_length(weight)
        scale = torch.sqrt(variance * factor.square() + like.norm_epsilon) / factor
        restored[f"{name}.conv.weight"] = (weight * factor[:, None, None, None]).float()
        restored[f"{name}.norm.weight"] = scale.float()
        restored[f"{name}.norm.bias"] = mean.float()  # that of the output, its bias included
        restored[f"{name}.norm.running_mean"] = ((mean - bias) * factor).float()
        restored[f"{name}.norm.running_var"] = (variance * factor.square()).float()
        restored[f"{name}.norm.num_batches_tracked"] = torch.tensor(0)
    with_norms = change_convs(arch, lambda name, conv: _like(conv, missing.get(name)))
    epsilon, momentum = like.norm_epsilon, like.norm_momentum
    return replace(with_norms, norm_epsilon=epsilon, norm_momentum=momentum), restored


def _to_usual_length(weight: Tensor) -> Tensor:
    """Return for each output channel what brings its weights to the length of trained ones.

    In the published V1 x0.25 and x0.75, which have their batch norms, pointwise kernels are as long
    as drawn ones, of variance 2 / (out * kernel^2) (`mobilette.nn.layers.initialise`), to within a
    third; depthwise kernels, on which there is no weight decay, are 13 to 56 times as long: 1.7 to
    12, here 1 a weight. Channels of hardly any weight are left: they give nothing, and are not to
    be blown up.
    """
    length = weight.flatten(1).norm(dim=1)
    depthwise = weight.shape[1] == 1 and weight[0].numel() > 1
    usual = math.sqrt(weight[0].numel() if depthwise else 2 * weight.shape[1] / weight.shape[0])
    return torch.where(length > 1e-3 * length.max(), usual / length, 1.0)


def _like(conv: Conv, wanted: Conv | None) -> Conv:
    return conv if wanted is None else replace(conv, norm=wanted.norm, bias=wanted.bias)


def _missing_norms(arch: Arch, like: Arch) -> dict[str, Conv]:
    """Return the convolutions of ``like`` that have a batch norm there and none in ``arch``."""
    given, wanted = convs(arch), convs(like.with_classes(arch.num_classes))
    for name in [*wanted, *given]:
        mine, theirs = given.get(name), wanted.get(name)
        if mine is None or theirs is None or _shape(mine) != _shape(theirs):
            raise InputError(
                f"{arch.name} cannot get the batch norms of {like.name}: {name} is "
                f"{_shape(mine)} in the one and {_shape(theirs)} in the other"
            )
    return {
        name: conv
        for name, conv in wanted.items()
        if conv.norm == "batch" and given[name].norm == "none"
    }


def _shape(conv: Conv | None) -> str:
    if conv is None:
        return "missing"
    groups = f" in {conv.groups} groups" if conv.groups > 1 else ""
    return f"{conv.channels} channels of {conv.kernel}x{conv.kernel}{groups}"


def _measure(
    network: Network, names: list[str], batches: Iterable[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance of each channel that the convolutions ``names`` give, in float64.

    Batches are merged as in Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample
    Variance": sums of squares of large values would lose the variance.
    """
    moments: dict[str, tuple[int, Tensor, Tensor]] = {}

    def note(name: str, output: Tensor) -> None:
        values = output.double().transpose(0, 1).flatten(1)
        count, mean = values.shape[1], values.mean(dim=1)
        squares = (values - mean[:, None]).square().sum(dim=1)
        if name in moments:
            before, old_mean, old_squares = moments[name]
            shift, total = mean - old_mean, before + count
            squares = old_squares + squares + shift.square() * (before * count / total)
            count, mean = total, old_mean + shift * (count / total)
        moments[name] = count, mean, squares

    for name in names:
        conv = network.get_submodule(f"{name}.conv")
        conv.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
    for batch in batches:
        network(batch)
    return {name: (mean, squares / count) for name, (count, mean, squares) in moments.items()}


def _load(arch: Arch, weights: Mapping[str, Tensor]) -> Network:
    network = Network(arch).eval()
    network.load_state_dict(weights)
    return network


def _at_least_one(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise InputError("there are no images to measure batch norms on")

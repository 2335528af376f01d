"""Fits published weights to the network to be trained: channels, batch norms, widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import adopt_norms, change_convs, convs
from mobilette.arch.rows import Conv
from mobilette.errors import InputError
from mobilette.formats.slicing import check_same_structure, slice_weights
from mobilette.formats.torch.name_tables import first_weights
from mobilette.nn.network import Network, measure_statistics

CLASSIFIER = "head.classifier."
Batches = Callable[[], Iterable[Tensor]]


def check_fits(source: Arch, target: Arch) -> None:
    """Raise `InputError` unless weights of ``source`` can be fitted to ``target``.

    Classes, input channels, resolution, strides and batch norms may differ; ``target`` may be
    narrower.
    """
    alike = replace(source, in_channels=target.in_channels).with_classes(target.num_classes)
    check_same_structure(adopt_norms(alike, target), target)


def is_as_wide(source: Arch, target: Arch) -> bool:
    """Whether ``target``, accepted by `check_fits`, takes the weights of ``source`` unsliced."""
    return all(
        conv.channels == convs(source)[name].channels
        for name, conv in convs(target).items()
        if name != "head.classifier"
    )


def fit_weights(
    source: Arch,
    weights: Mapping[str, Tensor],
    target: Arch,
    *,
    keep_classifier: bool,
    batches: Batches | None = None,
) -> dict[str, Tensor]:
    """Return weights of ``source`` as weights of ``target``.

    In this order, input channels are summed or repeated, folded batch norms restored and channels
    sliced.

    Args:
        source: the network of ``weights``.
        weights: its state dict.
        target: a network accepted by `check_fits`.
        keep_classifier: whether the classes are the same; otherwise the classifier's tensors are
            left out.
        batches: returns normalised images, float (N, C, H, W) with the input channels of
            ``target``, to measure batch-norm statistics on. Required where norms were folded;
            without it, a sliced network keeps the wider one's statistics.

    Raises:
        InputError: the networks do not fit, or norms were folded and ``batches`` is missing.
    """
    resized = replace(source, resolution=target.resolution)
    arch, fitted = adapt_input(resized, weights, target.in_channels)
    with_norms = adopt_norms(arch, target)
    if with_norms != arch:
        arch, fitted = restore_batch_norm(arch, fitted, with_norms, batches() if batches else ())
    wanted = target.with_classes(arch.num_classes)
    narrow = slice_weights(arch, fitted, wanted)
    if batches is not None and any(
        tensor.shape != fitted[name].shape for name, tensor in narrow.items()
    ):
        narrow = measure_batch_norm(wanted, narrow, batches())
    if keep_classifier and arch.num_classes == target.num_classes:
        return narrow
    return {name: tensor for name, tensor in narrow.items() if not name.startswith(CLASSIFIER)}


def adapt_input(
    arch: Arch, weights: Mapping[str, Tensor], in_channels: int
) -> tuple[Arch, dict[str, Tensor]]:
    """Return the network for images of ``in_channels`` channels, and its weights.

    For one channel, the first convolution's weights are summed: a grey image gets the same logits
    as with its channel repeated. For several, they are repeated in turn (red, green, blue, red,
    ...) and scaled by old / new channels to preserve their sum, as in timm's ``adapt_input_conv``.
    Both assume that all channels are normalised alike. ``weights`` is not changed; its tensors are
    reused.
    """
    adapted = replace(arch, in_channels=in_channels)
    if in_channels == arch.in_channels:
        return arch, dict(weights)
    if isinstance(arch.stem, Conv) and arch.stem.groups > 1:
        raise InputError(
            f"{arch.name}: its first convolution has {arch.stem.groups} groups, so it needs "
            f"{arch.in_channels} channels, not {in_channels}"
        )
    repeated = torch.arange(in_channels) % arch.in_channels
    first = {}
    for name in first_weights(arch):
        weight = weights[name]
        if in_channels == 1:
            first[name] = weight.sum(dim=1, keepdim=True)
        else:
            first[name] = weight[:, repeated] * (arch.in_channels / in_channels)
    return adapted, {**weights, **first}


def measure_batch_norm(
    arch: Arch, weights: Mapping[str, Tensor], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Return ``weights`` with all batch-norm statistics measured on ``batches``.

    ``batches`` are normalised images, float (N, C, H, W); ``weights`` is not changed.

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

    The new network computes the same function. With mean m and variance v of a convolution's
    output without its bias b, measured on ``batches``, the batch norm gets the statistics m and v,
    scale sqrt(v + eps) and shift b + m.

    Folding leaves the weights of each channel with an arbitrary norm. Before a batch norm, that
    norm sets the effective learning rate: a step of the same size turns short weights further (van
    Laarhoven 2017, arXiv 1706.05350, section 2). So the weights are rescaled to the usual norm of
    trained ones, and mean, variance and scale with them.

    Args:
        arch: a network that lacks some batch norms of ``like`` and has biases instead.
        weights: its state dict; not changed.
        like: the same network with batch norms; epsilon and momentum are taken from it.
            Activations, padding, resolution and classes may differ and stay as in ``arch``.
        batches: normalised images, float (N, C, H, W); at least one batch.

    Raises:
        InputError: there is no batch.
    """
    given = convs(arch)
    missing = {
        name: conv
        for name, conv in convs(like.with_classes(arch.num_classes)).items()
        if conv.norm == "batch" and given[name].norm == "none"
    }
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
        restored[f"{name}.norm.bias"] = mean.float()  # of the output, including its bias
        restored[f"{name}.norm.running_mean"] = ((mean - bias) * factor).float()
        restored[f"{name}.norm.running_var"] = (variance * factor.square()).float()
        restored[f"{name}.norm.num_batches_tracked"] = torch.tensor(0)

    def like_theirs(name: str, conv: Conv) -> Conv:
        theirs = missing.get(name, conv)
        return replace(conv, norm=theirs.norm, bias=theirs.bias)

    with_norms = change_convs(arch, like_theirs)
    epsilon, momentum = like.norm_epsilon, like.norm_momentum
    return replace(with_norms, norm_epsilon=epsilon, norm_momentum=momentum), restored


def _to_usual_length(weight: Tensor) -> Tensor:
    """Return the factor per output channel that gives its weights the usual norm.

    In the published V1 x0.25 and x0.75, which keep their batch norms, the norms of pointwise
    kernels are within a third of those at initialisation, variance 2 / (out * kernel^2)
    (`mobilette.nn.layers.initialise`). Depthwise kernels, which have no weight decay, are 13 to 56
    times as long: 1.7 to 12 per weight, here 1. Channels close to zero contribute nothing and are
    not scaled up.
    """
    length = weight.flatten(1).norm(dim=1)
    depthwise = weight.shape[1] == 1 and weight[0].numel() > 1
    usual = math.sqrt(weight[0].numel() if depthwise else 2 * weight.shape[1] / weight.shape[0])
    return torch.where(length > 1e-3 * length.max(), usual / length, 1.0)


def _measure(
    network: Network, names: list[str], batches: Iterable[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance per output channel of the convolutions ``names``, float64.

    Batches are merged as in Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample
    Variance": plain sums of squares would lose the variance of large values.
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
        raise InputError("no images to measure batch norms on")

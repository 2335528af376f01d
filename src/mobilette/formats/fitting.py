"""Published weights made to fit the network that is to be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import adopt_norms, convs
from mobilette.errors import InputError
from mobilette.formats.batch_norm import measure_batch_norm, restore_batch_norm
from mobilette.formats.same_structure import check_same_structure
from mobilette.formats.slicing import slice_weights

CLASSIFIER = "head.classifier."
Batches = Callable[[], Iterable[Tensor]]


def check_fits(source: Arch, target: Arch) -> None:
    """Raise `InputError` unless weights of ``source`` can be made to fit ``target``.

    Classes, input channels, resolution, strides and batch norms may differ; ``target`` may be
    narrower.
    """
    alike = replace(source, in_channels=target.in_channels).with_classes(target.num_classes)
    check_same_structure(adopt_norms(alike, target), target)


def is_as_wide(source: Arch, target: Arch) -> bool:
    """Whether ``target``, which `check_fits` accepts, takes the weights of ``source`` uncut."""
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

    Input channels are summed or repeated, batch norms that were folded are given back, channels are
    sliced, in this order.

    Args:
        source: the network that ``weights`` are of.
        weights: its state dict.
        target: what `check_fits` accepted.
        keep_classifier: whether the classes are the same; otherwise the classifier's tensors are
            left out.
        batches: gives normalised images, float (N, C, H, W) as ``target`` takes them, to measure
            statistics of batch norms on; needed where norms were folded. A sliced network's
            statistics stay those of the wider one without them.

    Raises:
        InputError: the networks do not fit, or norms were folded and there are no ``batches``.
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


FIRST = "stem.conv.weight"


def adapt_input(
    arch: Arch, weights: Mapping[str, Tensor], in_channels: int
) -> tuple[Arch, dict[str, Tensor]]:
    """Return the network for images of ``in_channels`` channels, and its weights.

    To one channel the first convolution's weights are summed: a grey image gets the logits that
    it had when its channel was repeated. To several they are repeated in turn (red, green, blue,
    red, ...) and multiplied by old / new channels, so that the sums stay of a size, as timm's
    ``adapt_input_conv`` does. Both hold for normalised values: the image's channels must be
    normalised alike.

    Args:
        arch: the network that ``weights`` are of.
        weights: its state dict; it is left alone, and its tensors are used again.
        in_channels: of the new network.

    Raises:
        InputError: ``in_channels`` is not a number that a network can have, or the first
            convolution is one in groups.
    """
    adapted = replace(arch, in_channels=in_channels)
    if in_channels == arch.in_channels:
        return arch, dict(weights)
    if arch.stem.groups > 1:
        raise InputError(
            f"{arch.name}: its first convolution has {arch.stem.groups} groups, so that it can be "
            f"read with {arch.in_channels} channels only, not {in_channels}"
        )
    weight = weights[FIRST]
    if in_channels == 1:
        first = weight.sum(dim=1, keepdim=True)
    else:
        repeated = torch.arange(in_channels) % arch.in_channels
        first = weight[:, repeated] * (arch.in_channels / in_channels)
    return adapted, {**weights, FIRST: first}

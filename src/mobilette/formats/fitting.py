"""Fits published weights to the network to be trained."""

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


FIRST = "stem.conv.weight"


def adapt_input(
    arch: Arch, weights: Mapping[str, Tensor], in_channels: int
) -> tuple[Arch, dict[str, Tensor]]:
    """Return the network for images of ``in_channels`` channels, and its weights.

    For one channel, the first convolution's weights are summed: a grey image gets the same logits
    as with its channel repeated. For several, they are repeated in turn (red, green, blue, red,
    ...) and scaled by old / new channels to preserve their sum, as in timm's ``adapt_input_conv``.
    Both assume that all channels are normalised alike. ``weights`` is not changed; its tensors are
    reused.

    Raises:
        InputError: ``in_channels`` is out of range, or the first convolution is grouped.
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

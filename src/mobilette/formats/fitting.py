"""Published weights made to fit the network that is to be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.editing import adopt_norms, convs
from mobilette.formats.batch_norm import measure_batch_norm, restore_batch_norm
from mobilette.formats.input_channels import adapt_input
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

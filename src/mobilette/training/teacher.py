"""A trained network to distil from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mobilette.arch.arch import Arch
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.model.class_matching import BY_ORDER, are_numbers, match_classes
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.progress import Advance, Remark
from mobilette.training.start import EXPECTED, names_weights, read_start


class Teacher:
    """A trained network that returns logits for augmented pixels, in the student's classes."""

    def __init__(
        self, network: Network, normalise: Normalise, *, columns: Tensor, in_channels: int
    ) -> None:
        """Make a teacher of a ``network`` in evaluation mode, with its ``normalise``.

        ``columns``, int64 (classes,), is its logit for each class of the student; ``in_channels``
        are the student's.
        """
        self.network, self.normalise, self.columns = network, normalise, columns
        self._repeat = network.arch.in_channels // in_channels

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return logits, float (N, classes), for ``pixels`` (N, C, r, r) in 0 to 255."""
        pixels = pixels.float()
        if self._repeat > 1:
            pixels = pixels.repeat(1, self._repeat, 1, 1)
        size = self.network.arch.size
        if pixels.shape[2:] != size:
            shrinks = any(new < old for new, old in zip(size, pixels.shape[2:], strict=True))
            pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=shrinks)
        x = self.normalise(pixels).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(x)
        return logits.float()[:, self.columns]


def read_teacher(
    name: str,
    *,
    arch: Arch,
    classes: Sequence[ClassLabel],
    multi_label: bool,
    device: torch.device,
    remark: Remark | None = None,
    report: Advance | None = None,
) -> Teacher:
    """Return the teacher ``name``: a run or published weights, as for `read_start`.

    ``arch``, ``classes`` and ``multi_label`` are the student's; ``remark`` is called if classes
    were matched by order alone or images are distorted, ``report`` with the progress of a download.

    Raises:
        InputError: there is no such teacher, it lacks a class, or it differs from the student in
            colour or in having several labels per image.
    """
    start = None
    if names_weights(name):
        start = read_start(name, model=None, width_mult=None, report=report)
    if start is None:
        raise InputError(f"teacher {name!r}: {EXPECTED}")
    if start.arch.in_channels not in (arch.in_channels, 3):
        raise InputError(f"teacher {name}: takes grey images, but the network takes colour ones")
    if start.multi_label != multi_label:
        its, theirs = ("several", "one") if start.multi_label else ("one", "several")
        raise InputError(
            f"teacher {name}: has {its} of the classes per image, but the images have {theirs}"
        )
    columns, by = _columns(start, name, classes)
    if by == BY_ORDER and remark is not None:
        remark(f"teacher {name}: no class matches by name; matched by order")
    (height, width), (tall, wide) = arch.size, start.arch.size
    if height * wide != width * tall and remark is not None:
        remark(f"teacher {name}: sees the {height}x{width} images squashed to {tall}x{wide}")
    network = start.network.requires_grad_(False)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(
        network,
        Normalise(start.preprocess).to(device),
        columns=torch.tensor(columns, device=device),
        in_channels=arch.in_channels,
    )


def _columns(start: Model, name: str, classes: Sequence[ClassLabel]) -> tuple[list[int], str]:
    """Return the teacher's logit for each of ``classes``, and how they were matched."""
    ids = [label.id for label in classes]
    if not are_numbers(start.classes) or ids == [label.id for label in start.classes]:
        return match_classes(ids, start.classes, where=f"teacher {name}")
    if start.arch.num_classes != len(ids):
        raise InputError(
            f"teacher {name}: {start.arch.num_classes} classes without names, but the images "
            f"have {len(ids)}; 'mobilette weights import --classes' gives them names"
        )
    return list(range(len(ids))), BY_ORDER

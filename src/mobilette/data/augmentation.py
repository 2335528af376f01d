"""Augmentation of uint8 batches on the training device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from mobilette.arch.scale import Resolution, size_of
from mobilette.data.mixing import erase, random_rectangles
from mobilette.data.normalise import to_device
from mobilette.data.randaugment import MAGNITUDES, adjust, randaugment
from mobilette.errors import InputError, one_of

CROPS = ("none", "pad", "resized")
CROP_RATIO = 4 / 3


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How images are changed at random before each step.

    Attributes:
        crop: ``pad`` shifts the image; ``resized`` enlarges a part of it.
        crop_padding: largest shift as a fraction of the side, filled by reflection (``pad``; He et
            al. 2015, arXiv 1512.03385, section 4.2).
        crop_scale: smallest fraction of the area, at 3:4 to 4:3 times the image's aspect ratio
            (``resized``; Szegedy et al. 2015, arXiv 1409.4842, section 6).
        flip: mirror half of the images.
        colour_jitter: brightness, contrast and saturation are multiplied by 1 ± up to this.
        randaugment: magnitude, 0 to 30, of two operations per image; 0 is off.
        erasing: probability that a rectangle becomes noise (`erase`).
    """

    crop: Literal["none", "pad", "resized"] = "pad"
    crop_padding: float = 0.125
    crop_scale: float = 0.35
    flip: bool = True
    colour_jitter: float = 0.0
    randaugment: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        one_of(self.crop, CROPS, "crop")
        for name, lowest, highest in (
            ("crop_padding", 0.0, 1.0),
            ("crop_scale", 0.01, 1.0),
            ("colour_jitter", 0.0, 1.0),
            ("randaugment", 0.0, float(MAGNITUDES)),
            ("erasing", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InputError(f"{name} {value} is not between {lowest} and {highest}")


def augment(
    pixels: Tensor, augmentation: Augmentation, *, resolution: Resolution, generator: Generator
) -> Tensor:
    """Return randomly changed ``pixels``, uint8 (N, C, H, W), at ``resolution``.

    In this order: crop, mirror and resize (one pass), RandAugment, colour jitter, erasing. Random
    numbers are drawn on the CPU, the same count for every batch, so all devices agree.

    Returns:
        uint8 (N, C, height, width), channels last; ``pixels`` itself if nothing changes.
    """
    x = _place(pixels, augmentation, resolution=resolution, generator=generator)
    if augmentation.randaugment:
        x = randaugment(x, magnitude=augmentation.randaugment, generator=generator)
    if augmentation.colour_jitter:
        draws = torch.rand(3, len(x), generator=generator)
        brightness, contrast, saturation = 1 + augmentation.colour_jitter * (2 * draws - 1)
        x = adjust(x, brightness=brightness, contrast=contrast, saturation=saturation)
    if augmentation.erasing:
        x = erase(x, probability=augmentation.erasing, generator=generator)
    return x if x is pixels else x.contiguous(memory_format=torch.channels_last)


def _place(
    pixels: Tensor, augmentation: Augmentation, *, resolution: Resolution, generator: Generator
) -> Tensor:
    count, _, *sides = pixels.shape
    size = (sides[0], sides[1])
    shift = augmentation.crop_padding if augmentation.crop == "pad" else 0
    padding = (round(shift * size[0]), round(shift * size[1]))
    if augmentation.crop != "resized" and size_of(resolution) == size:
        return flip_and_crop(pixels, flip=augmentation.flip, padding=padding, generator=generator)
    draws = torch.rand(count, 5, generator=generator)
    if augmentation.crop == "resized":
        area = (augmentation.crop_scale, 1.0)
        starts, sizes = random_rectangles(draws[:, 1:], size=size, area=area, ratio=CROP_RATIO)
    else:
        whole = torch.tensor(size)
        most = torch.tensor(padding).minimum(whole - 1)
        starts = (draws[:, 1:3] * (2 * most + 1)).long() - most
        sizes = whole.expand_as(starts)
    mirrored = (draws[:, 0] < 0.5) & augmentation.flip
    return resample(pixels, starts=starts, sizes=sizes, mirrored=mirrored, resolution=resolution)


def flip_and_crop(
    pixels: Tensor,
    *,
    flip: bool,
    padding: int | tuple[int, int],
    generator: Generator | None = None,
) -> Tensor:
    """Return randomly shifted and mirrored ``pixels``, (N, C, H, W) of any dtype.

    Each image is padded by ``padding`` reflected pixels (rows and columns, if two are given),
    cropped to its own size at a random place, and mirrored with probability 1/2 if ``flip`` (He et
    al. 2015, section 4.2). Random numbers are drawn on the CPU, so all devices agree.
    """
    count, channels, height, width = pixels.shape
    down, across = size_of(padding)
    rows = _window(count, height, down, generator)
    columns = _window(count, width, across, generator)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if not flip and not (down or across):
        return pixels
    # Rows first: whole rows are cheap to copy.
    first = torch.arange(0, count * channels * height, height).view(count, channels, 1)
    rows = to_device((first + rows[:, None]).flatten(), pixels.device)
    x = pixels.reshape(-1, width).index_select(0, rows).view(pixels.shape)
    return x.gather(3, to_device(columns, pixels.device)[:, None, None].expand(pixels.shape))


def _window(count: int, size: int, padding: int, generator: Generator | None) -> Tensor:
    """Return indices (count, size) of one random window per image, reflected at the borders."""
    padding = min(padding, size - 1)
    offsets = torch.randint(-padding, padding + 1, (count, 1), generator=generator)
    indices = (torch.arange(size) + offsets).abs()
    return torch.where(indices >= size, 2 * (size - 1) - indices, indices)


def resample(
    pixels: Tensor, *, starts: Tensor, sizes: Tensor, mirrored: Tensor, resolution: Resolution
) -> Tensor:
    """Return one part of each image, resized to one size and mirrored where asked.

    Bilinear and antialiased, using only pixels of the part; rows first, then columns, rounded after
    each, like Pillow. A part may extend past the border by less than a side, into the reflection.

    Args:
        pixels: uint8 (N, C, H, W) on any device.
        starts: int64 (N, 2), first row and column of each part, on the CPU.
        sizes: int64 (N, 2), height and width, at most H and W, on the CPU.
        mirrored: bool (N,), on the CPU.
        resolution: of the result.

    Returns:
        uint8 (N, C, height, width), not contiguous.
    """
    count, channels, old_height, old_width = pixels.shape
    height, width = size_of(resolution)
    rows, row_weights = _neighbours(starts[:, 0], sizes[:, 0], size=old_height, after=height)
    columns, weights = _neighbours(starts[:, 1], sizes[:, 1], size=old_width, after=width)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    weights = torch.where(mirrored[:, None, None], weights.flip(1), weights)
    x = _blend_lines(pixels, rows, row_weights)
    # Whole lines are copied at once, so columns become lines.
    x = x.permute(0, 3, 1, 2).reshape(count, 1, old_width, channels * height)
    x = _blend_lines(x, columns, weights)
    return x.view(count, width, channels, height).permute(0, 2, 3, 1)


def _neighbours(start: Tensor, length: Tensor, *, size: int, after: int) -> tuple[Tensor, Tensor]:
    """Return the K of ``size`` lines that make each of ``after``, and weights, (N, after, K).

    The parts begin at ``start`` and have ``length``, (N,) each.
    """
    start, length = start[:, None, None], length[:, None, None]
    scale = length / after
    reach = scale.clamp(min=1)
    centres = start + (torch.arange(after)[:, None] + 0.5) * scale
    # As many as the largest part needs, so that no shape depends on the random numbers.
    taps = math.ceil(2 * max(1.0, size / after))
    lines = (centres - reach + 0.5).floor().long() + torch.arange(taps)
    weights = (1 - (lines + 0.5 - centres).abs() / reach).clamp(min=0)
    weights = weights * ((lines >= start) & (lines < start + length))
    weights = weights / weights.sum(dim=2, keepdim=True)
    lines = lines.abs()
    lines = torch.where(lines >= size, 2 * (size - 1) - lines, lines)
    return lines.clamp(0, size - 1), weights  # clamped lines have weight 0


def _blend_lines(x: Tensor, lines: Tensor, weights: Tensor) -> Tensor:
    """Return uint8 (N, G, r, B), weighted sums of the lines of ``x`` (N, G, L, B)."""
    count, groups, length, width = x.shape
    flat = x.reshape(-1, width)
    first = torch.arange(0, len(flat), length).view(count, groups, 1, 1)
    places = to_device(first + lines[:, None], x.device)
    weights = to_device(weights[:, None], x.device)
    total = torch.full((1,), 0.5, device=x.device)  # truncation then rounds
    for tap in range(lines.shape[2]):
        part = flat.index_select(0, places[..., tap].reshape(-1)).view(count, groups, -1, width)
        total = torch.addcmul(total, part.float(), weights[..., tap, None])
    return total.to(torch.uint8)

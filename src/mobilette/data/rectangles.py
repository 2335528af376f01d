"""Random rectangles, one an image: to crop, to erase, to paste."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def random_rectangles(
    draws: Tensor, *, size: int, area: tuple[float, float], ratio: float
) -> tuple[Tensor, Tensor]:
    """Return the places and sizes of random rectangles inside a square of ``size`` pixels.

    The area is uniform in ``area`` (parts of the square's), the logarithm of height / width uniform
    between those of ``1 / ratio`` and ``ratio``, the place uniform among those that fit. An area
    that leaves no room for the extreme ratios narrows their range; nothing is drawn again, so every
    area is as frequent as asked for.

    Args:
        draws: (N, 4), uniform in [0, 1).
        size: of the square.
        area: smallest and largest, above 0 and at most 1.
        ratio: largest of the longer side to the shorter one; at least 1.

    Returns:
        The first row and column, and the height and width (at least one pixel), int64 (N, 2) each.
    """
    draws = draws.double()
    smallest, largest = area
    areas = smallest + (largest - smallest) * draws[:, 0]
    reach = (-areas.log()).clamp(max=math.log(ratio))
    ratios = ((2 * draws[:, 1] - 1) * reach).exp()
    sides = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()], dim=1)
    sizes = (size * sides).round().long().clamp(1, size)
    starts = (draws[:, 2:] * (size - sizes + 1)).long()
    return starts, sizes


def rectangle_mask(starts: Tensor, sizes: Tensor, *, size: int) -> Tensor:
    """Return bool (N, 1, size, size), true inside the rectangle (N, 2) of each image."""
    lines = torch.arange(size)
    starts, ends = starts[..., None], (starts + sizes)[..., None]
    inside = (lines >= starts) & (lines < ends)
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]

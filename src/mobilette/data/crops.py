"""Parts of images, each resized to the same square."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mobilette.data.transfer import to_device


def resample(
    pixels: Tensor, *, starts: Tensor, sizes: Tensor, mirrored: Tensor, resolution: int
) -> Tensor:
    """Return one part of each image, resized to a square, and mirrored where asked for.

    Bilinear; where a part shrinks, the triangle widens by the same factor (antialiasing). Only
    pixels of the part count. A part that reaches over the border, by less than a side, sees the
    image's reflection there. Rows first, then columns, rounded after each, as Pillow does it.

    Args:
        pixels: uint8 (N, C, R, R) on any device.
        starts: int64 (N, 2), first row and column of each part, on the CPU.
        sizes: int64 (N, 2), height and width, at most R, on the CPU.
        mirrored: bool (N,), on the CPU.
        resolution: of the result.

    Returns:
        uint8 (N, C, resolution, resolution), not contiguous.
    """
    count, channels, size, _ = pixels.shape
    rows, row_weights = _neighbours(starts[:, 0], sizes[:, 0], size=size, resolution=resolution)
    columns, weights = _neighbours(starts[:, 1], sizes[:, 1], size=size, resolution=resolution)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    weights = torch.where(mirrored[:, None, None], weights.flip(1), weights)
    x = _blend_lines(pixels, rows, row_weights)
    # Whole lines are copied at once, so the columns become lines.
    x = x.permute(0, 3, 1, 2).reshape(count, 1, size, channels * resolution)
    x = _blend_lines(x, columns, weights)
    return x.view(count, resolution, channels, resolution).permute(0, 2, 3, 1)


def _neighbours(
    start: Tensor, length: Tensor, *, size: int, resolution: int
) -> tuple[Tensor, Tensor]:
    """Return which K of ``size`` lines make each new line, and their weights, (N, resolution, K).

    ``start`` and ``length`` (N,) are those of the parts.
    """
    start, length = start[:, None, None], length[:, None, None]
    scale = length / resolution
    reach = scale.clamp(min=1)
    centres = start + (torch.arange(resolution)[:, None] + 0.5) * scale
    # As many as the largest part needs, so that no shape depends on what was drawn.
    taps = math.ceil(2 * max(1.0, size / resolution))
    lines = (centres - reach + 0.5).floor().long() + torch.arange(taps)
    weights = (1 - (lines + 0.5 - centres).abs() / reach).clamp(min=0)
    weights = weights * ((lines >= start) & (lines < start + length))
    weights = weights / weights.sum(dim=2, keepdim=True)
    lines = lines.abs()
    lines = torch.where(lines >= size, 2 * (size - 1) - lines, lines)
    return lines.clamp(0, size - 1), weights  # the clamped ones weigh nothing


def _blend_lines(x: Tensor, lines: Tensor, weights: Tensor) -> Tensor:
    """Return uint8 (N, G, r, B): weighted sums of the lines of ``x`` (N, G, L, B)."""
    count, groups, length, width = x.shape
    flat = x.reshape(-1, width)
    first = torch.arange(0, len(flat), length).view(count, groups, 1, 1)
    places = to_device(first + lines[:, None], x.device)
    weights = to_device(weights[:, None], x.device)
    total = torch.full((1,), 0.5, device=x.device)  # so that cutting off the fraction rounds
    for tap in range(lines.shape[2]):
        part = flat.index_select(0, places[..., tap].reshape(-1)).view(count, groups, -1, width)
        total = torch.addcmul(total, part.float(), weights[..., tap, None])
    return total.to(torch.uint8)

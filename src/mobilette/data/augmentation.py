"""Augmentation of whole batches of uint8 pixels, on the device that trains."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def flip_and_crop(
    pixels: Tensor, *, flip: bool, padding: int, generator: Generator | None = None
) -> Tensor:
    """Return randomly shifted and mirrored ``pixels``, (N, C, H, W) of any dtype.

    Each picture is padded by ``padding`` reflected pixels, cropped to its own size at a random
    place, and mirrored left to right with probability 1/2 if ``flip``. (Pad-and-crop: He et al.
    2015, section 4.2.) Random numbers are drawn on the CPU, so every device sees the same.
    """
    count, _, height, width = pixels.shape
    rows = _window(count, height, padding, generator)
    columns = _window(count, width, padding, generator)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if not flip and not padding:
        return pixels
    pictures = torch.arange(count, device=pixels.device)[:, None, None]
    rows, columns = rows.to(pixels.device), columns.to(pixels.device)
    # Indexing with the channels last keeps each pixel's channels together: one read a pixel.
    return pixels.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _window(count: int, size: int, padding: int, generator: Generator | None) -> Tensor:
    """Return indices (count, size) of one random window each, reflected at the borders."""
    padding = min(padding, size - 1)
    offsets = torch.randint(-padding, padding + 1, (count, 1), generator=generator)
    indices = (torch.arange(size) + offsets).abs()
    return torch.where(indices >= size, 2 * (size - 1) - indices, indices)

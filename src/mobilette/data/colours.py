"""Changes of colour, of whole batches: uint8 (N, C, H, W) in and out, rounded.

`adjust`, `sharpen` and `equalize` are Pillow's `ImageEnhance` and `ImageOps`, up to rounding.
Grey images (C = 1) are taken as well; they have no saturation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mobilette.data.transfer import to_device

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def adjust(pixels: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Return ``pixels`` with brightness, then contrast, then saturation multiplied, (N,) each.

    1 changes nothing; 0 gives black, the image's mean grey, or its grey. The three are one
    linear map of an image's colours, and what leaves 0 to 255 is cut off once, at the end.
    """
    brightness, contrast, saturation = (
        to_device(factor.float(), pixels.device)[:, None, None, None]
        for factor in (brightness, contrast, saturation)
    )
    x = pixels.float()
    grey = x
    if pixels.shape[1] == len(LUMA):
        red, green, blue = (x[:, c : c + 1] * share for c, share in enumerate(LUMA))
        grey = red + green + blue
    slope = brightness * contrast
    mean = brightness * (1 - contrast) * grey.mean(dim=(2, 3), keepdim=True)
    shift = torch.addcmul(mean + 0.5, grey, slope * (1 - saturation))
    return torch.addcmul(shift, x, slope * saturation).clamp_(0, 255).to(torch.uint8)


def sharpen(pixels: Tensor, factors: Tensor) -> Tensor:
    """Return ``pixels`` blurred (factor 0), as they are (1) or sharpened (above 1).

    ``factors`` (N,) go between an image and its mean over 3x3 pixels, the middle one counted five
    times. The outermost pixels stay.
    """
    height, width = pixels.shape[2:]
    if height < 3 or width < 3:
        return pixels
    x = pixels.float()
    inner = x[:, :, 1:-1, 1:-1]
    # A sum of three rows, then of three columns: five times as fast as a convolution or a pool.
    three = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    nine = three[..., :-2] + three[..., 1:-1] + three[..., 2:]
    blurred = (nine + 4 * inner) / 13
    inner.copy_(torch.lerp(blurred, inner, to_device(factors, x.device)[:, None, None, None]))
    return x.add_(0.5).clamp_(0, 255).to(torch.uint8)


def posterize(pixels: Tensor, bits: int) -> Tensor:
    """Return ``pixels`` with their highest ``bits`` (1 to 8) only."""
    return pixels & (255 << (8 - bits) & 255)


def solarize(pixels: Tensor, threshold: int) -> Tensor:
    """Return ``pixels`` with those from ``threshold`` on inverted."""
    # Many times as fast as a choice by `torch.where`.
    return pixels ^ (pixels >= threshold).to(torch.uint8).mul_(255)


def autocontrast(pixels: Tensor) -> Tensor:
    """Return ``pixels`` with each channel of each image stretched to 0 to 255."""
    lowest = pixels.amin(dim=(2, 3), keepdim=True).float()
    span = pixels.amax(dim=(2, 3), keepdim=True).float() - lowest
    slope = 255 / span.where(span > 0, 255)
    start = 0.5 - (lowest * slope).where(span > 0, 0)
    return torch.addcmul(start, pixels.float(), slope).clamp_(0, 255).to(torch.uint8)


def equalize(pixels: Tensor) -> Tensor:
    """Return ``pixels`` with the levels of each channel of each image about equally frequent.

    The integer arithmetic is Pillow's, so the result is the same.
    """
    count, channels, height, width = pixels.shape
    levels = pixels.reshape(count * channels, height * width).long()
    histogram = torch.zeros(count * channels, 256, dtype=torch.int64, device=pixels.device)
    histogram.scatter_add_(1, levels, torch.ones_like(levels))
    brightest = levels.amax(dim=1, keepdim=True)
    step = (height * width - histogram.gather(1, brightest)) // 255
    below = histogram.cumsum(dim=1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=pixels.device))
    return table.to(torch.uint8).gather(1, levels).view(pixels.shape)

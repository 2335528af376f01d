"""RandAugment: two random operations per image at one magnitude; and the operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from mobilette.data.normalise import to_device

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "contrast",
    "color",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
MAGNITUDES = 30
GREY = 128  # fills what comes in from outside the image


def randaugment(pixels: Tensor, *, magnitude: float, generator: Generator) -> Tensor:
    """Return ``pixels`` after two operations, drawn for each image among `OPERATIONS`.

    Cubuk et al. 2019, arXiv 1909.13719, section 3, with N = 2. The ranges are torchvision's, where
    every operation grows with ``magnitude``: shears up to 0.3, translations up to 150/331 of the
    side, rotations up to 30 degrees, factors from 1 to 0.1 or 1.9, 8 to 4 bits, a threshold of 255
    to 0. Directions are equally probable. (timm counts from 0 to 10.)

    Args:
        pixels: uint8 (N, C, H, W).
        magnitude: 0 to 30.
        generator: on the CPU; draws four numbers per image.
    """
    draws = torch.rand(len(pixels), 2, 2, generator=generator)
    operations = (draws[..., 0] * len(OPERATIONS)).long()
    signs = torch.where(draws[..., 1] < 0.5, -1.0, 1.0)
    return apply_operations(pixels, operations, signs, magnitude=magnitude)


def apply_operations(
    pixels: Tensor, operations: Tensor, signs: Tensor, *, magnitude: float
) -> Tensor:
    """Return ``pixels`` after the given operations.

    Geometric ones come first, as one bilinear sampling per image; colour ones follow in their
    order.

    Args:
        pixels: uint8 (N, C, H, W).
        operations: indices into `OPERATIONS`, (N, K) on the CPU.
        signs: -1 or 1, (N, K) on the CPU; for operations that have a direction.
        magnitude: 0 to 30.
    """
    level = magnitude / MAGNITUDES
    pixels = _move(pixels.clone(), operations, signs * level)
    for chosen, sign in zip(operations.unbind(1), signs.unbind(1), strict=True):
        _colour(pixels, chosen, sign, level)
    return pixels


def _is(operations: Tensor, *names: str) -> Tensor:
    return torch.isin(operations, torch.tensor([OPERATIONS.index(name) for name in names]))


def _move(pixels: Tensor, operations: Tensor, levels: Tensor) -> Tensor:
    """Shear, translate and rotate ``pixels`` in place, and return them."""
    moved = _is(operations, *OPERATIONS[1:6]).any(dim=1).nonzero()[:, 0]
    if not len(moved):
        return pixels
    height, width = pixels.shape[2:]
    maps = torch.eye(3).expand(len(moved), 3, 3)
    for column, level in zip(operations[moved].T, levels[moved].T, strict=True):
        maps = maps @ _inverse_maps(column, level, height, width)
    moved = to_device(moved, pixels.device)
    x = pixels.index_select(0, moved).float() - GREY
    maps = to_device(maps[:, :2], x.device)
    grid = functional.affine_grid(maps, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, align_corners=False)
    return pixels.index_copy_(0, moved, x.add_(GREY + 0.5).to(torch.uint8))


def _inverse_maps(operations: Tensor, levels: Tensor, height: int, width: int) -> Tensor:
    """Return (N, 3, 3): from places in the result to places in the image, both -1 to 1."""
    none = torch.zeros_like(levels)
    shear_x, shear_y, translate_x, translate_y, rotate = (
        torch.where(_is(operations, name), levels, none) for name in OPERATIONS[1:6]
    )
    angle = rotate * math.radians(30)
    # Shears leave the upper left corner in place; translations are whole pixels.
    shear_x, shear_y = 0.3 * shear_x, 0.3 * shear_y
    across, down = (
        (150 / 331 * size * level).trunc() * (2 / size)
        for size, level in ((width, translate_x), (height, translate_y))
    )
    cos, sin, one = angle.cos(), angle.sin(), torch.ones_like(levels)
    tall, wide = height / width, width / height  # a pixel is not as long in both directions
    rows = [
        torch.stack([cos, tall * (shear_x - sin), tall * shear_x - across], dim=1),
        torch.stack([wide * (shear_y + sin), cos, wide * shear_y - down], dim=1),
        torch.stack([none, none, one], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _colour(pixels: Tensor, operations: Tensor, signs: Tensor, level: float) -> None:
    """Apply at most one colour operation to each of ``pixels``, in place."""
    factors = 1 + 0.9 * level * signs

    def change(names: tuple[str, ...], result: Callable[[Tensor, Tensor], Tensor]) -> None:
        chosen = _is(operations, *names).nonzero()[:, 0]
        if len(chosen):
            places = to_device(chosen, pixels.device)
            pixels.index_copy_(0, places, result(pixels.index_select(0, places), chosen))

    def factor(name: str, chosen: Tensor) -> Tensor:
        return torch.where(_is(operations, name), factors, 1.0)[chosen]

    change(
        ("brightness", "contrast", "color"),
        lambda x, chosen: adjust(
            x,
            brightness=factor("brightness", chosen),
            contrast=factor("contrast", chosen),
            saturation=factor("color", chosen),
        ),
    )
    change(("sharpness",), lambda x, chosen: sharpen(x, factors[chosen]))
    change(("posterize",), lambda x, _: posterize(x, 8 - round(4 * level)))
    change(("solarize",), lambda x, _: solarize(x, math.ceil(255 * (1 - level))))
    change(("autocontrast",), lambda x, _: autocontrast(x))
    change(("equalize",), lambda x, _: equalize(x))


LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def adjust(pixels: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Return ``pixels`` with brightness, then contrast, then saturation multiplied, (N,) each.

    1 changes nothing; 0 gives black, the image's mean grey, or its grey. The three form one linear
    map of an image's colours, clipped to 0 to 255 once, at the end.
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
    """Return ``pixels`` blurred (factor 0), unchanged (1) or sharpened (above 1).

    ``factors`` (N,) interpolate between an image and its mean over 3x3 pixels, the middle one
    counted five times. The outermost pixels stay.
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
    """Return ``pixels`` with only their highest ``bits`` (1 to 8)."""
    return pixels & (255 << (8 - bits) & 255)


def solarize(pixels: Tensor, threshold: int) -> Tensor:
    """Return ``pixels`` with values from ``threshold`` on inverted."""
    # Many times as fast as `torch.where`.
    return pixels ^ (pixels >= threshold).to(torch.uint8).mul_(255)


def autocontrast(pixels: Tensor) -> Tensor:
    """Return ``pixels`` with each channel of each image stretched to 0 to 255."""
    lowest = pixels.amin(dim=(2, 3), keepdim=True).float()
    span = pixels.amax(dim=(2, 3), keepdim=True).float() - lowest
    slope = 255 / span.where(span > 0, 255)
    start = 0.5 - (lowest * slope).where(span > 0, 0)
    return torch.addcmul(start, pixels.float(), slope).clamp_(0, 255).to(torch.uint8)


def equalize(pixels: Tensor) -> Tensor:
    """Return ``pixels`` with each channel's histogram equalized per image, exactly like Pillow."""
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

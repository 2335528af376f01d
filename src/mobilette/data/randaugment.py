"""RandAugment: two random operations an image, all of one strength."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from mobilette.data.colours import (
    adjust,
    autocontrast,
    equalize,
    posterize,
    sharpen,
    solarize,
)
from mobilette.data.transfer import to_device

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
GREY = 128  # what comes in from outside the image


def randaugment(pixels: Tensor, *, magnitude: float, generator: Generator) -> Tensor:
    """Return ``pixels`` after two operations, drawn for each image among `OPERATIONS`.

    Cubuk et al. 2019, arXiv 1909.13719, section 3, with N = 2. The ranges are torchvision's, in
    which every operation grows with ``magnitude``: shears up to 0.3, translations up to 150/331
    of the side, rotations up to 30 degrees, factors from 1 to 0.1 or 1.9, 8 to 4 bits, a threshold
    of 255 to 0. Directions are drawn with equal chances. (timm counts from 0 to 10.)

    Args:
        pixels: uint8 (N, C, R, R).
        magnitude: 0 to 30.
        generator: on the CPU; four numbers an image are taken.
    """
    draws = torch.rand(len(pixels), 2, 2, generator=generator)
    operations = (draws[..., 0] * len(OPERATIONS)).long()
    signs = torch.where(draws[..., 1] < 0.5, -1.0, 1.0)
    return apply_operations(pixels, operations, signs, magnitude=magnitude)


def apply_operations(
    pixels: Tensor, operations: Tensor, signs: Tensor, *, magnitude: float
) -> Tensor:
    """Return ``pixels`` after the given operations.

    Those that move pixels come first, as one bilinear sampling an image; those of colour follow in
    their order.

    Args:
        pixels: uint8 (N, C, R, R).
        operations: places in `OPERATIONS`, (N, K) on the CPU.
        signs: -1 or 1, (N, K) on the CPU; used by the operations that have a direction.
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
    """Apply shears, translations and rotations to ``pixels`` in place, and return them."""
    moved = _is(operations, *OPERATIONS[1:6]).any(dim=1).nonzero()[:, 0]
    if not len(moved):
        return pixels
    size = pixels.shape[-1]
    maps = torch.eye(3).expand(len(moved), 3, 3)
    for column, level in zip(operations[moved].T, levels[moved].T, strict=True):
        maps = maps @ _inverse_maps(column, level, size)
    moved = to_device(moved, pixels.device)
    x = pixels.index_select(0, moved).float() - GREY
    maps = to_device(maps[:, :2], x.device)
    grid = functional.affine_grid(maps, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, align_corners=False)
    return pixels.index_copy_(0, moved, x.add_(GREY + 0.5).to(torch.uint8))


def _inverse_maps(operations: Tensor, levels: Tensor, size: int) -> Tensor:
    """Return (N, 3, 3): from places in the result to places in the image, both -1 to 1."""
    none = torch.zeros_like(levels)
    shear_x, shear_y, translate_x, translate_y, rotate = (
        torch.where(_is(operations, name), levels, none) for name in OPERATIONS[1:6]
    )
    angle = rotate * math.radians(30)
    # Shears leave the upper left corner in place; translations are whole pixels.
    shear_x, shear_y = 0.3 * shear_x, 0.3 * shear_y
    across, down = (
        (150 / 331 * size * level).trunc() * (2 / size) for level in (translate_x, translate_y)
    )
    cos, sin, one = angle.cos(), angle.sin(), torch.ones_like(levels)
    rows = [
        torch.stack([cos, shear_x - sin, shear_x - across], dim=1),
        torch.stack([shear_y + sin, cos, shear_y - down], dim=1),
        torch.stack([none, none, one], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _colour(pixels: Tensor, operations: Tensor, signs: Tensor, level: float) -> None:
    """Apply one operation of colour to each of ``pixels`` that has one, in place."""
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

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilette.data.randaugment import OPERATIONS, apply_operations, randaugment
from tests.data.photographs import photographs
from tests.parity.libraries import library

GREY = 128
MOVING = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


@functools.cache
def theirs() -> Any:
    library("torchvision")
    return importlib.import_module("torchvision.transforms.v2")


def torchvision_does(pixels: Tensor, name: str, *, sign: int, magnitude: int) -> Tensor:
    transforms = theirs()
    randaugment = transforms.RandAugment(interpolation="bilinear")
    spaces = {key.lower(): key for key in randaugment._AUGMENTATION_SPACE}
    key = spaces[name.replace("_", "")]
    levels, signed = randaugment._AUGMENTATION_SPACE[key]
    table = levels(31, *pixels.shape[-2:])
    level = 0.0 if table is None else float(table[magnitude]) * (sign if signed else 1)
    # Theirs mixes the colour outside twice into a border; of zeros outside there is but one mix.
    pixels = pixels.float() - GREY if name in MOVING else pixels
    answer: Tensor = randaugment._apply_image_or_video_transform(
        pixels, key, level, interpolation=randaugment.interpolation, fill=randaugment._fill
    )
    return (answer + GREY).round().to(torch.uint8) if name in MOVING else answer


def ours(pixels: Tensor, *names: str, sign: int, magnitude: float) -> Tensor:
    operations = torch.tensor([[OPERATIONS.index(name) for name in names]])
    operations = operations.expand(len(pixels), -1)
    signs = torch.full(operations.shape, float(sign))
    return apply_operations(pixels, operations, signs, magnitude=magnitude)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [3, 9, 30])
@pytest.mark.parametrize("height", [24, 48])
def test_each_operation_is_that_of_torchvision(name: str, magnitude: int, height: int) -> None:
    pixels = photographs(3, 48)[:, :, :height]
    for sign in (-1, 1):
        expected = torchvision_does(pixels, name, sign=sign, magnitude=magnitude)
        out = ours(pixels, name, sign=sign, magnitude=magnitude)
        # Theirs cut off fractions, in the grey that colours start from as well.
        tolerance = 2 if name in {"contrast", "color"} else 1
        assert (out.int() - expected.int()).abs().max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3])
def test_two_moves_are_one_sampling(channels: int) -> None:
    pixels = torch.nn.functional.interpolate(  # smooth, so that sampling twice blurs nothing
        photographs(2, 6, channels).float(), size=(64, 64), mode="bicubic"
    ).clamp(0, 255)
    pixels = pixels.to(torch.uint8)
    for first in MOVING:
        for second in MOVING:
            step = ours(pixels, first, sign=1, magnitude=12)
            step = ours(step, second, sign=1, magnitude=12)
            out = ours(pixels, first, second, sign=1, magnitude=12)
            apart = (out.int() - step.int()).abs()[:, :, 22:42, 22:42]  # away from borders
            assert apart.max() <= 3, (first, second)
    one = ours(pixels, "rotate", "shear_x", sign=1, magnitude=30)
    other = ours(pixels, "shear_x", "rotate", sign=1, magnitude=30)
    assert (one.int() - other.int()).abs().max() > 20  # the order counts


def test_colours_follow_in_their_order() -> None:
    pixels = photographs(2, 48)
    for names in (("posterize", "equalize"), ("equalize", "posterize")):
        step = ours(pixels, names[0], sign=1, magnitude=20)
        step = ours(step, names[1], sign=1, magnitude=20)
        assert torch.equal(ours(pixels, *names, sign=1, magnitude=20), step)
    turned = ours(pixels, "rotate", sign=1, magnitude=20)
    expected = ours(turned, "solarize", sign=1, magnitude=20)
    assert torch.equal(ours(pixels, "solarize", "rotate", sign=1, magnitude=20), expected)


def test_each_image_gets_its_own_operations() -> None:
    count = len(OPERATIONS)
    pixels = photographs(2, 32)[:1].expand(count * count, -1, -1, -1)
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    signs = torch.where(torch.arange(2 * count * count).view(-1, 2) % 3 == 0, -1.0, 1.0)
    together = apply_operations(pixels, pairs, signs, magnitude=9)
    for index in range(0, count * count, 5):
        one = slice(index, index + 1)
        alone = apply_operations(pixels[one], pairs[one], signs[one], magnitude=9)
        assert (together[one].int() - alone.int()).abs().max() <= 1


def test_operations_and_signs_are_equally_frequent() -> None:
    # A flat image tells whether it was inverted, or darkened, and not filled from outside.
    generator = torch.Generator().manual_seed(0)
    black = torch.zeros(4000, 1, 4, 4, dtype=torch.uint8)
    inverted = randaugment(black, magnitude=30, generator=generator).flatten(1)
    # Solarised after any of the 8 other operations of colour, or before one that keeps white: 6,
    # and brightness in one of its directions.
    share = (inverted == 255).all(dim=1).float().mean()
    assert abs(share - (8 + 6.5) / 14**2) < 0.013
    bright = torch.full_like(black, 250)
    darkened = randaugment(bright, magnitude=30, generator=generator).flatten(1)
    share = (darkened == 25).all(dim=1).float().mean()
    assert abs(share - 0.5 * (6 + 6) / 14**2) < 0.01


def test_no_strength_moves_nothing() -> None:
    pixels = photographs(2, 32)
    for name in (*MOVING, "brightness", "contrast", "color", "sharpness", "posterize"):
        assert (ours(pixels, name, sign=1, magnitude=0).int() - pixels.int()).abs().max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_given_stay_as_they_are(channels: int) -> None:
    pixels = photographs(20, 32, channels)
    before = pixels.clone()
    out = randaugment(pixels, magnitude=9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pixels, before)
    changed = (out != pixels).flatten(1).any(dim=1)
    assert changed.sum() > 14

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from mobilette.data import randaugment as colours
from tests.data.photographs import image_of, photographs, pixels_of

FACTORS = torch.tensor([0.0, 0.1, 0.6, 1.0, 1.4, 1.9])


def each(pixels: Tensor, change: Callable[[Image.Image, int], Image.Image]) -> Tensor:
    images = [change(image_of(image), index) for index, image in enumerate(pixels)]
    return torch.stack([pixels_of(image) for image in images])


def posterized(bits: int, image: Image.Image, _: int) -> Image.Image:
    return ImageOps.posterize(image, bits)


def solarized(threshold: int, image: Image.Image, _: int) -> Image.Image:
    return ImageOps.solarize(image, threshold)


def difference(one: Tensor, two: Tensor) -> int:
    return int((one.int() - two.int()).abs().max())


def adjust(pixels: Tensor, **factors: Tensor) -> Tensor:
    ones = torch.ones(len(pixels))
    everything = {"brightness": ones, "contrast": ones, "saturation": ones} | factors
    return colours.adjust(pixels, **everything)


# Pillow cuts fractions off, in the grey it goes from as well; 1 and 2 levels are that.
@pytest.mark.parametrize(
    ("name", "enhancer", "tolerance"),
    [
        ("brightness", ImageEnhance.Brightness, 1),
        ("contrast", ImageEnhance.Contrast, 2),
        ("saturation", ImageEnhance.Color, 2),
    ],
)
def test_adjustments_are_those_of_pillow(
    name: str, enhancer: Callable[[Image.Image], ImageEnhance.Color], tolerance: int
) -> None:
    pixels = photographs(len(FACTORS), 40)
    expected = each(pixels, lambda image, i: enhancer(image).enhance(float(FACTORS[i])))
    assert difference(adjust(pixels, **{name: FACTORS}), expected) <= tolerance
    assert difference(pixels, expected) > 20


def test_three_adjustments_are_one_after_the_other() -> None:
    pixels = 90 + photographs(6, 40) // 5  # so that nothing is cut off on the way
    brightness, contrast, saturation = FACTORS.clamp(min=0.5), FACTORS.flip(0), FACTORS.roll(2)
    brightness = brightness.clamp(max=1.2)
    step = adjust(pixels, brightness=brightness)
    step = adjust(step, contrast=contrast)
    step = adjust(step, saturation=saturation)
    at_once = colours.adjust(
        pixels, brightness=brightness, contrast=contrast, saturation=saturation
    )
    assert difference(at_once, step) <= 3  # roundings of the steps, multiplied by up to 1.9


def test_a_grey_image_has_no_saturation() -> None:
    pixels = photographs(6, 40, 1)
    assert torch.equal(adjust(pixels, saturation=FACTORS), pixels)
    expected = each(
        pixels, lambda image, i: ImageEnhance.Contrast(image).enhance(float(FACTORS[i]))
    )
    assert difference(adjust(pixels, contrast=FACTORS), expected) <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpness_is_that_of_pillow(channels: int) -> None:
    pixels = photographs(len(FACTORS), 40, channels)
    expected = each(
        pixels, lambda image, i: ImageEnhance.Sharpness(image).enhance(float(FACTORS[i]))
    )
    assert difference(colours.sharpen(pixels, FACTORS), expected) <= 1
    assert difference(pixels, expected) > 20


def test_two_pixels_cannot_be_sharpened() -> None:
    pixels = photographs(1, 2)
    assert torch.equal(colours.sharpen(pixels, torch.tensor([1.9])), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_tables_of_levels_are_those_of_pillow(channels: int) -> None:
    flat = torch.full((1, channels, 40, 40), 77, dtype=torch.uint8)
    two = flat.clone()
    two[..., 20:] = 80
    few = photographs(1, 40, channels) // 4 + 100
    pixels = torch.cat([photographs(4, 40, channels), flat, two, few])
    for bits in range(1, 9):
        expected = each(pixels, partial(posterized, bits))
        assert torch.equal(colours.posterize(pixels, bits), expected)
    for threshold in (0, 1, 100, 255):
        expected = each(pixels, partial(solarized, threshold))
        assert torch.equal(colours.solarize(pixels, threshold), expected)
    assert torch.equal(colours.equalize(pixels), each(pixels, lambda x, _: ImageOps.equalize(x)))
    expected = each(pixels, lambda x, _: ImageOps.autocontrast(x))
    assert difference(colours.autocontrast(pixels), expected) <= 1  # Pillow cuts off
    assert difference(pixels, expected) > 20


def test_images_of_few_pixels_are_equalised_as_pillow_does() -> None:
    pixels = photographs(3, 5)
    assert torch.equal(colours.equalize(pixels), each(pixels, lambda x, _: ImageOps.equalize(x)))

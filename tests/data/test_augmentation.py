from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mobilette.arch.scale import Resolution
from mobilette.data.augmentation import Augmentation, augment, flip_and_crop
from mobilette.errors import InputError
from tests.data.photographs import photographs

OFF = Augmentation(crop="none", flip=False)
EVERYTHING = Augmentation(crop="resized", colour_jitter=0.4, randaugment=9, erasing=0.5)


def augmented(
    pixels: Tensor, augmentation: Augmentation, *, resolution: Resolution = 0, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    _, _, height, width = pixels.shape
    resolution = resolution or (height, width)
    return augment(pixels, augmentation, resolution=resolution, generator=generator)


@given(
    count=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    part=st.floats(0.3, 1.0),
    crop=st.sampled_from(["none", "pad", "resized"]),
    flip=st.booleans(),
    strengths=st.tuples(st.floats(0, 1), st.floats(0, 30), st.floats(0, 1)),
    level=st.sampled_from([None, 0, 255]),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_augmentation_gives_pixels_of_the_size_asked_for(
    count: int,
    channels: int,
    size: tuple[int, int],
    part: float,
    crop: Literal["none", "pad", "resized"],
    flip: bool,
    strengths: tuple[float, float, float],
    level: int | None,
    channels_last: bool,
    seed: int,
) -> None:
    jitter, randaugment, erasing = strengths
    augmentation = Augmentation(
        crop=crop, flip=flip, colour_jitter=jitter, randaugment=randaugment, erasing=erasing
    )
    noise = torch.Generator().manual_seed(seed)
    shape = (count, channels, *size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)
    pixels = pixels if level is None else torch.full_like(pixels, level)
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    before = pixels.clone()
    resolution = (max(1, round(part * size[0])), max(1, round(part * size[1])))
    out = augmented(pixels, augmentation, resolution=resolution, seed=seed)
    assert out.shape == (count, channels, *resolution)
    assert out.dtype == torch.uint8
    assert out.is_contiguous(memory_format=torch.channels_last) or out is pixels
    assert torch.equal(pixels, before)
    torch.testing.assert_close(
        augmented(before.contiguous(), augmentation, resolution=resolution, seed=seed),
        out,
        rtol=0,
        atol=1 if channels_last else 0,  # sums of pixels are added up in another order
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_what_happens_to_a_image_does_not_depend_on_the_others(channels: int) -> None:
    pixels = photographs(6, 32, channels)
    others = pixels.clone()
    others[0] = 255 - others[0]
    for seed in range(5):
        one, two = (augmented(x, EVERYTHING, resolution=24, seed=seed) for x in (pixels, others))
        assert torch.equal(one[1:], two[1:])
        assert not torch.equal(one, pixels[:, :, :24, :24])


def test_another_seed_gives_another_batch() -> None:
    pixels = photographs(4, 32)
    assert not torch.equal(augmented(pixels, EVERYTHING), augmented(pixels, EVERYTHING, seed=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_to_do_gives_the_same_pixels(channels: int) -> None:
    pixels = photographs(2, 16, channels)
    assert augmented(pixels, OFF) is pixels


def test_the_default_is_pad_and_crop_and_flip() -> None:
    pixels = photographs(4, 32)
    moved = flip_and_crop(pixels, flip=True, padding=4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(augmented(pixels, Augmentation(), seed=3), moved)


@pytest.mark.parametrize("height", [16, 32])
def test_a_smaller_resolution_shrinks_what_the_larger_one_shows(height: int) -> None:
    pixels = photographs(16, 32)[:, :, :height].contiguous()
    half, reach = (height // 2, 16), (4, 4, height // 8, height // 8)  # an eighth of each side
    small = augmented(pixels, Augmentation(crop="pad", flip=False), resolution=half)
    for image, wide in zip(
        small, torch.nn.functional.pad(pixels.float(), reach, mode="reflect"), strict=True
    ):
        windows = wide.unfold(1, height, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        shrunk = torch.nn.functional.interpolate(
            windows, size=half, mode="bilinear", antialias=True
        )
        assert (shrunk - image).abs().amax(dim=(1, 2, 3)).min() <= 1


def test_jitter_multiplies_by_up_to_its_strength() -> None:
    grey = torch.full((500, 3, 2, 2), 100, dtype=torch.uint8)  # contrast and colour keep it
    out = augmented(grey, Augmentation(crop="none", flip=False, colour_jitter=0.4))
    levels = out[:, 0, 0, 0].float()
    assert levels.min() >= 60
    assert levels.max() <= 140
    assert levels.min() < 64
    assert levels.max() > 136
    assert abs(levels.mean() - 100) < 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": "rezised"}, "did you mean 'resized'"),
        ({"crop_padding": 1.5}, "crop_padding 1.5 is not between 0.0 and 1.0"),
        ({"crop_scale": 0.0}, "crop_scale 0.0"),
        ({"colour_jitter": float("nan")}, "colour_jitter nan"),
        ({"randaugment": 31.0}, "randaugment 31.0 is not between 0.0 and 30.0"),
        ({"erasing": -0.1}, "erasing -0.1"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**values)


@given(
    count=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    padding=st.tuples(st.integers(0, 15), st.integers(0, 15)),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_each_image_is_a_window_of_its_own_reflection(
    count: int,
    channels: int,
    size: tuple[int, int],
    padding: tuple[int, int],
    flip: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8)
    out = flip_and_crop(pixels, flip=flip, padding=padding, generator=generator)
    assert out.shape == pixels.shape
    assert out.dtype == torch.uint8
    (height, width), (down, across) = size, map(min, padding, (size[0] - 1, size[1] - 1))
    reach = (across, across, down, down)
    wide = torch.nn.functional.pad(pixels.float(), reach, mode="reflect").byte()
    for image, border in zip(out, wide, strict=True):
        windows = [
            border[:, y : y + height, x : x + width]
            for y in range(2 * down + 1)
            for x in range(2 * across + 1)
        ]
        candidates = windows + ([window.flip(-1) for window in windows] if flip else [])
        assert any(torch.equal(image, candidate) for candidate in candidates)


def test_images_are_moved_and_mirrored_one_by_one() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(200, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    mirrored = flip_and_crop(pixels, flip=True, padding=0, generator=generator)
    flipped = sum(torch.equal(p, pixels[0].flip(-1)) for p in mirrored)
    assert 60 < flipped < 140
    moved = flip_and_crop(pixels, flip=False, padding=2, generator=generator)
    assert len({tuple(p.flatten().tolist()) for p in moved}) == 25


def test_the_same_seed_gives_the_same_batch() -> None:
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    one, two = (
        flip_and_crop(pixels, flip=True, padding=3, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_asked_for_nothing_done(channels: int) -> None:
    pixels = torch.zeros(2, channels, 4, 4, dtype=torch.uint8)
    assert flip_and_crop(pixels, flip=False, padding=0) is pixels

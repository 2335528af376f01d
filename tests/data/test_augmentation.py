from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilette.data.augmentation import flip_and_crop


@given(
    count=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    size=st.integers(2, 12),
    padding=st.integers(0, 15),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_each_picture_is_a_window_of_its_own_reflection(
    count: int, channels: int, size: int, padding: int, flip: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)
    out = flip_and_crop(pixels, flip=flip, padding=padding, generator=generator)
    assert out.shape == pixels.shape
    assert out.dtype == torch.uint8
    reach = min(padding, size - 1)
    wide = torch.nn.functional.pad(pixels.float(), (reach,) * 4, mode="reflect").byte()
    for picture, border in zip(out, wide, strict=True):
        windows = [
            border[:, y : y + size, x : x + size]
            for y in range(2 * reach + 1)
            for x in range(2 * reach + 1)
        ]
        candidates = windows + ([window.flip(-1) for window in windows] if flip else [])
        assert any(torch.equal(picture, candidate) for candidate in candidates)


def test_pictures_are_moved_and_mirrored_one_by_one() -> None:
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

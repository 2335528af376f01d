from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobilette.data.augmentation import resample
from mobilette.data.mixing import random_rectangles, rectangle_mask
from tests.data.photographs import image_of, photographs, pixels_of


@given(data=st.data(), size=st.sampled_from([17, 32]), channels=st.sampled_from([1, 3]))
def test_parts_are_what_pillow_resizes(data: st.DataObject, size: int, channels: int) -> None:
    resolution = data.draw(st.tuples(st.integers(5, 40), st.integers(5, 40)))
    height = data.draw(st.sampled_from([9, size]))
    pixels = photographs(3, size, channels)[:, :, :height]
    lengths = st.tuples(st.integers(1, height), st.integers(1, size))
    sizes = data.draw(st.lists(lengths, min_size=3, max_size=3))
    starts = [
        (data.draw(st.integers(0, height - high)), data.draw(st.integers(0, size - wide)))
        for high, wide in sizes
    ]
    mirrored = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    out = resample(
        pixels,
        starts=torch.tensor(starts),
        sizes=torch.tensor(sizes),
        mirrored=torch.tensor(mirrored),
        resolution=resolution,
    )
    for image, part, place, length, mirror in zip(
        out, pixels, starts, sizes, mirrored, strict=True
    ):
        (top, left), (high, wide) = place, length
        cropped = image_of(part[:, top : top + high, left : left + wide])
        resized = cropped.resize(resolution[::-1], Image.Resampling.BILINEAR)
        expected = pixels_of(resized)
        expected = expected.flip(2) if mirror else expected
        # Each of the two passes rounds, and the weights are not the same to the last bit: where
        # both sums lie between two values, two steps apart.
        difference = (image.int() - expected.int()).abs()
        assert difference.max() <= 2
        assert (difference > 1).float().mean() < 0.02


@pytest.mark.parametrize("resolution", [12, 20])
def test_a_part_beyond_the_border_sees_the_reflection(resolution: int) -> None:
    pixels = photographs(4, 20)
    starts = torch.tensor([[-19, 5], [19, -19], [0, 0], [-3, 8]])
    sizes = torch.full((4, 2), 20)
    unmirrored = torch.zeros(4).bool()
    out = resample(pixels, starts=starts, sizes=sizes, mirrored=unmirrored, resolution=resolution)
    for image, source, (top, left) in zip(out, pixels, starts.tolist(), strict=True):
        wide = np.pad(source.numpy(), ((0, 0), (19, 19), (19, 19)), mode="reflect")
        window = torch.from_numpy(wide[:, top + 19 : top + 39, left + 19 : left + 39].copy())
        resized = image_of(window).resize((resolution,) * 2, Image.Resampling.BILINEAR)
        assert (image.int() - pixels_of(resized).int()).abs().max() <= 1


def test_the_whole_image_at_its_own_size_is_the_image() -> None:
    pixels = photographs(2, 24)
    out = resample(
        pixels,
        starts=torch.zeros(2, 2).long(),
        sizes=torch.full((2, 2), 24),
        mirrored=torch.tensor([False, True]),
        resolution=24,
    )
    assert torch.equal(out[0], pixels[0])
    assert torch.equal(out[1], pixels[1].flip(2))


@given(
    draws=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=4, max_size=4),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    ratio=st.floats(1, 4),
)
def test_every_rectangle_lies_inside(
    draws: list[float], size: tuple[int, int], area: tuple[float, float], ratio: float
) -> None:
    area = (min(area), max(area))
    starts, sizes = random_rectangles(torch.tensor([draws]), size=size, area=area, ratio=ratio)
    assert (starts >= 0).all()
    assert (sizes >= 1).all()
    whole = torch.tensor(size)
    assert (starts + sizes <= whole).all()
    assert rectangle_mask(starts, sizes, size=size).sum() == sizes.prod()
    least, most = (  # each side was rounded to pixels
        (sizes[0].double() + slack) / whole for slack in (-1.01, 1.01)
    )
    assert least.clamp(min=0).prod() <= area[1]
    assert most.prod() >= area[0]
    assert least.max() <= ratio * most.min()


def test_areas_and_shapes_are_spread_as_said() -> None:
    draws = torch.rand(20000, 4, generator=torch.Generator().manual_seed(0))
    starts, sizes = random_rectangles(draws, size=1000, area=(0.2, 0.7), ratio=4 / 3)
    areas = (sizes.double() / 1000).prod(dim=1)
    shapes = (sizes[:, 0] / sizes[:, 1]).double().log() / math.log(4 / 3)
    for values, lowest, highest in ((areas, 0.2, 0.7), (shapes, -1.0, 1.0)):
        for part in (0.25, 0.5, 0.75):
            expected = lowest + part * (highest - lowest)
            assert abs(values.quantile(part) - expected) < 0.01 * (highest - lowest) * 2
    middle = (starts / (1000 - sizes).clamp(min=1)).mean(dim=0)
    assert ((middle - 0.5).abs() < 0.01).all()

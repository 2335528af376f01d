from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mobilette.arch.scale import size_of
from mobilette.data.mixing import erase, mix
from tests.data.photographs import photographs


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(
    count: int, size: int | tuple[int, int], *, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """Return images whose every pixel is their number, and one-hot targets."""
    numbers = torch.arange(count, dtype=torch.uint8)
    shape = (count, channels, *size_of(size))
    return numbers[:, None, None, None].expand(shape), torch.eye(count)


@given(
    count=st.integers(1, 8),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    alpha=st.floats(1e-3, 5),
    seed=st.integers(0, 1000),
)
def test_cutmix_pastes_a_rectangle_and_counts_it(
    count: int, channels: int, size: tuple[int, int], alpha: float, seed: int
) -> None:
    pixels, targets = numbered(count, size, channels=channels)
    out, mixed = mix(pixels, targets, mixup=0, cutmix=alpha, generator=generator(seed))
    assert out.dtype == torch.uint8
    for index in range(count):
        other = (index - 1) % count
        pasted = (out[index] == other).float()
        expected = torch.zeros(count)
        expected[index] += 1 - pasted.mean()
        expected[other] += pasted.mean()
        if count > 1:
            torch.testing.assert_close(mixed[index], expected, atol=1e-6, rtol=0)
        assert torch.isin(out[index], torch.tensor([index, other], dtype=torch.uint8)).all()
        rows, columns = pasted[0].amax(dim=1), pasted[0].amax(dim=0)
        assert torch.equal(pasted, torch.outer(rows, columns).expand_as(pasted))
        for line in (rows, columns):
            assert line.diff().abs().sum() <= 2  # one run
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(count))


@given(count=st.integers(1, 8), alpha=st.floats(1e-3, 5), seed=st.integers(0, 1000))
def test_mixup_adds_up_images_and_targets_alike(count: int, alpha: float, seed: int) -> None:
    pixels, targets = numbered(count, 3)
    out, mixed = mix(pixels, targets, mixup=alpha, cutmix=0, generator=generator(seed))
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert mixed.min() >= 0
    numbers = mixed @ torch.arange(float(count))
    torch.testing.assert_close(out, numbers[:, None, None, None].expand_as(out))
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(count))


@pytest.mark.parametrize(("alpha", "deviation"), [(0.2, 0.4226), (1.0, 0.2887), (5.0, 0.1508)])
def test_shares_are_those_of_the_beta_distribution(alpha: float, deviation: float) -> None:
    pixels, targets = numbered(200, 1, channels=1)
    shares = torch.cat(
        [
            mix(pixels, targets, mixup=alpha, cutmix=0, generator=generator(seed))[1].diagonal()
            for seed in range(20)
        ]
    )
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.std() - deviation) < 0.01  # 1 / sqrt(4 (2 alpha + 1))


def test_with_both_half_of_the_images_get_either() -> None:
    pixels, targets = numbered(200, 64)
    out, mixed = mix(pixels, targets, mixup=1, cutmix=1, generator=generator(0))
    assert out.dtype == torch.float32
    pasted = int((out.flatten(1).amax(dim=1) - out.flatten(1).amin(dim=1) > 0.9).sum())
    assert 65 < pasted < 135
    expected = mixed @ torch.arange(200.0)
    torch.testing.assert_close(out.mean(dim=(1, 2, 3)), expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_the_seed_decides(mixup: float, cutmix: float) -> None:
    pixels, targets = photographs(4, 16), torch.eye(4)
    one, two, other = (
        mix(pixels, targets, mixup=mixup, cutmix=cutmix, generator=generator(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[1], other[1])


def test_floating_point_images_are_mixed_as_they_are() -> None:
    pixels, targets = photographs(4, 16), torch.eye(4)
    for mixup, cutmix in ((0.2, 0.0), (0.0, 1.0), (0.2, 1.0)):
        one, two = (
            mix(x, targets, mixup=mixup, cutmix=cutmix, generator=generator(0))[0]
            for x in (pixels, pixels.float())
        )
        assert two.dtype == torch.float32
        assert torch.equal(one.float(), two)


def test_nothing_asked_for_nothing_mixed() -> None:
    pixels, targets = photographs(2, 8), torch.eye(2)
    out, mixed = mix(pixels, targets, mixup=0, cutmix=0, generator=generator(0))
    assert out is pixels
    assert mixed is targets


@pytest.mark.parametrize(("channels", "height"), [(1, 40), (3, 40), (3, 24)])
def test_some_images_lose_a_rectangle(channels: int, height: int) -> None:
    pixels = photographs(2, 40, channels)[:1, :, :height].expand(600, -1, -1, -1)
    out = erase(pixels, probability=0.3, generator=generator(0))
    changed = (out != pixels).any(dim=1)
    erased = changed.flatten(1).any(dim=1)
    assert 140 < erased.sum() < 220
    areas = []
    for mask, image in zip(changed[erased], out[erased], strict=True):
        rows, columns = (mask.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        high, wide = (int(line[-1] - line[0]) + 1 for line in (rows, columns))
        # A pixel of noise may be the one that was there; whole lines of them hardly are.
        assert mask.sum() > 0.9 * high * wide
        areas.append(high * wide / (40 * height))
        patch = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float()
        assert 128 - 40 < patch.mean() < 128 + 40
        assert patch.std() > 40
    assert 0.01 < min(areas) < 0.06
    assert 0.34 < max(areas) < 0.44
    assert abs(sum(areas) / len(areas) - 0.21) < 0.03


def test_rectangles_have_the_images_aspect_on_the_whole() -> None:
    """Pasted ones exactly, erased ones by their median."""
    pixels, targets = numbered(500, (40, 120), channels=1)
    out, _ = mix(pixels.float(), targets, mixup=0, cutmix=1.0, generator=generator(0))
    pasted = (out != pixels)[:, 0]
    high, wide = pasted.any(dim=2).sum(dim=1), pasted.any(dim=1).sum(dim=1)
    inside = (high > 0) & (high < 39)
    for first, last in ((pasted[:, 0], pasted[:, -1]), (pasted[:, :, 0], pasted[:, :, -1])):
        inside &= ~first.any(dim=1) & ~last.any(dim=1)  # not cut by a border
    assert inside.sum() > 50
    assert (3 * high - wide)[inside].abs().max() <= 2
    grey = torch.full((500, 1, 40, 120), 300.0)
    erased = (erase(grey, probability=1.0, generator=generator(0)) != grey)[:, 0]
    ratios = erased.any(dim=1).sum(dim=1) / erased.any(dim=2).sum(dim=1)
    assert 2.4 < ratios.median() < 3.6


def test_erasing_none_or_all() -> None:
    pixels = photographs(20, 16)
    assert torch.equal(erase(pixels, probability=0, generator=generator(0)), pixels)
    out = erase(pixels, probability=1, generator=generator(0))
    assert (out != pixels).flatten(1).any(dim=1).all()

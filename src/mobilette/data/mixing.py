"""Random rectangles, to crop, erase and mix images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from mobilette.arch.scale import Resolution, size_of
from mobilette.data.normalise import to_device


def random_rectangles(
    draws: Tensor, *, size: Resolution, area: tuple[float, float], ratio: float
) -> tuple[Tensor, Tensor]:
    """Return the places and sizes of random rectangles inside an image of ``size`` pixels.

    The area is uniform in ``area`` (fractions of the image's), the logarithm of height / width,
    relative to the image's, uniform between those of ``1 / ratio`` and ``ratio``, the place uniform
    among those that fit. An area without room for the extreme ratios narrows their range.

    Args:
        draws: (N, 4), uniform in [0, 1).
        size: of the image.
        area: smallest and largest, above 0 and at most 1.
        ratio: largest ratio of height to width, or width to height; at least 1.

    Returns:
        First row and column, and height and width (at least one pixel), int64 (N, 2) each.
    """
    draws = draws.double()
    smallest, largest = area
    areas = smallest + (largest - smallest) * draws[:, 0]
    reach = (-areas.log()).clamp(max=math.log(ratio))
    ratios = ((2 * draws[:, 1] - 1) * reach).exp()
    sides = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()], dim=1)
    whole = torch.tensor(size_of(size))
    sizes = (whole * sides).round().long().clamp(min=1).minimum(whole)
    starts = (draws[:, 2:] * (whole - sizes + 1)).long()
    return starts, sizes


def rectangle_mask(starts: Tensor, sizes: Tensor, *, size: Resolution) -> Tensor:
    """Return bool (N, 1, H, W), true inside each image's rectangle (N, 2), for ``size`` (H, W)."""
    ends = starts + sizes

    def inside(axis: int) -> Tensor:
        lines = torch.arange(size_of(size)[axis])
        return (lines >= starts[:, axis, None]) & (lines < ends[:, axis, None])

    return inside(0)[:, None, :, None] & inside(1)[:, None, None, :]


AREA = (0.02, 0.4)
RATIO = 1 / 0.3


def erase(pixels: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """Return ``pixels`` with a random rectangle of noise in some of the images.

    Zhong et al. 2017, arXiv 1708.04896, Algorithm 1: a rectangle of 2% to 40% of the area, with a
    side ratio of 0.3 to 1/0.3 (here times the image's, and uniform in its logarithm), filled with
    random values. One noise image is drawn per batch; each image shows its own rectangle of it.

    Args:
        pixels: uint8 (N, C, H, W) on any device.
        probability: of erasing an image.
        generator: on the CPU; draws five numbers per image and C x H x W for the noise.
    """
    count, channels, *sides = pixels.shape
    size = (sides[0], sides[1])
    draws = torch.rand(count, 5, generator=generator)
    noise = torch.randint(0, 256, (channels, *size), dtype=torch.uint8, generator=generator)
    starts, sizes = random_rectangles(draws[:, 1:], size=size, area=AREA, ratio=RATIO)
    erased = draws[:, 0] < probability
    mask = rectangle_mask(starts, sizes * erased[:, None], size=size)
    return _where(to_device(mask, pixels.device), to_device(noise, pixels.device), pixels)


def mix(
    pixels: Tensor, targets: Tensor, *, mixup: float, cutmix: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image, and its target in proportion, with the one before it in the batch.

    mixup (Zhang et al. 2017, arXiv 1710.09412, section 2) averages the two with weights from
    Beta(alpha, alpha). cutmix (Yun et al. 2019, arXiv 1905.04899, section 3.1) pastes a rectangle
    of the other image with that share of the area around a uniform centre, and weights the targets
    by the area inside the image. With both, each image gets either with equal probability. Batches
    are shuffled, so the neighbour is a random image.

    Args:
        pixels: (N, C, H, W), uint8 or floating-point, on any device.
        targets: floating-point (N, classes), such as one-hot labels.
        mixup: alpha; 0 is off.
        cutmix: alpha; 0 is off.
        generator: on the CPU; draws three numbers per image and a seed.

    Returns:
        The images, in their dtype after cutmix alone, else floating-point (uint8 to float32); and
        the targets. Both are the arguments themselves if both alphas are 0.
    """
    if not mixup and not cutmix:
        return pixels, targets
    count, _, *sides = pixels.shape
    draws = torch.rand(count, 3, generator=generator)
    pasted = draws[:, 0] < (0.5 if mixup else 1.0) if cutmix else torch.zeros(count).bool()
    # torch's own beta distribution takes no generator.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    alphas = torch.where(pasted, cutmix, mixup).double().numpy()
    shares = torch.from_numpy(np.random.default_rng(seed).beta(alphas, alphas)).float()
    mask = _pasted(shares * pasted, draws[:, 1:], size=(sides[0], sides[1]))
    shares = torch.where(pasted, mask.float().mean(dim=(1, 2, 3)), shares)
    parts = to_device(shares, targets.device)[:, None]
    targets = torch.lerp(targets, targets.roll(1, 0), parts)
    if mixup:
        amounts = torch.where(pasted[:, None, None, None], mask, shares[:, None, None, None])
        pixels = pixels if pixels.is_floating_point() else pixels.float()
        return torch.lerp(
            pixels, pixels.roll(1, 0), to_device(amounts, pixels.device).to(pixels)
        ), targets
    return _where(to_device(mask, pixels.device), pixels.roll(1, 0), pixels), targets


def _where(mask: Tensor, pixels: Tensor, others: Tensor) -> Tensor:
    """Return `torch.where` of them, for bytes several times as fast on a CPU."""
    if others.dtype != torch.uint8:
        return torch.where(mask, pixels, others)
    return (pixels ^ others).bitwise_and_(mask.to(torch.uint8).mul_(255)).bitwise_xor_(others)


def _pasted(shares: Tensor, centres: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Return bool (N, 1, H, W), true in rectangles with ``shares`` of the area, cut at borders.

    They have the image's ratio of sides; ``centres`` (N, 2) are fractions of the sides.
    """
    whole = torch.tensor(size)
    sides = (whole * shares.sqrt()[:, None]).round().long()
    starts = (centres * whole).long() - sides // 2
    first, last = starts.clamp(min=0), (starts + sides).minimum(whole)
    return rectangle_mask(first, last - first, size=size)

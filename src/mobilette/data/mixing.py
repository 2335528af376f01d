"""Mixed images with mixed labels: mixup and cutmix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from mobilette.data.rectangles import rectangle_mask
from mobilette.data.transfer import to_device


def mix(
    pixels: Tensor, targets: Tensor, *, mixup: float, cutmix: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image, and its target in proportion, with the one before it in the batch.

    mixup (Zhang et al. 2017, arXiv 1710.09412, section 2) adds up the two with weights from
    Beta(alpha, alpha); cutmix (Yun et al. 2019, arXiv 1905.04899, section 3.1) pastes a rectangle
    of the other, of such a part of the area, around a uniform centre, and counts what of it lies
    inside. With both, each image gets one of them, with equal chances. Batches are shuffled, so
    the neighbour is a random image.

    Args:
        pixels: (N, C, R, R), uint8 or floating-point, on any device.
        targets: floating-point (N, classes), such as one-hot labels.
        mixup: alpha; 0 is off.
        cutmix: alpha; 0 is off.
        generator: on the CPU; three numbers an image and a seed are taken.

    Returns:
        The images, in their dtype after cutmix alone, else floating-point (uint8 to float32); and
        the targets. Both are the arguments where nothing is asked for.
    """
    if not mixup and not cutmix:
        return pixels, targets
    count, size = len(pixels), pixels.shape[-1]
    draws = torch.rand(count, 3, generator=generator)
    pasted = draws[:, 0] < (0.5 if mixup else 1.0) if cutmix else torch.zeros(count).bool()
    # torch's own beta distribution takes no generator.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    alphas = torch.where(pasted, cutmix, mixup).double().numpy()
    shares = torch.from_numpy(np.random.default_rng(seed).beta(alphas, alphas)).float()
    mask = _pasted(shares * pasted, draws[:, 1:], size=size)
    shares = torch.where(pasted, mask.float().mean(dim=(1, 2, 3)), shares)
    parts = to_device(shares, targets.device)[:, None]
    targets = torch.lerp(targets, targets.roll(1, 0), parts)
    if mixup:
        amounts = torch.where(pasted[:, None, None, None], mask, shares[:, None, None, None])
        pixels = pixels if pixels.is_floating_point() else pixels.float()
        return torch.lerp(
            pixels, pixels.roll(1, 0), to_device(amounts, pixels.device).to(pixels)
        ), targets
    return torch.where(to_device(mask, pixels.device), pixels.roll(1, 0), pixels), targets


def _pasted(shares: Tensor, centres: Tensor, *, size: int) -> Tensor:
    """Return bool (N, 1, size, size), true in squares of those parts of the area, cut at borders.

    ``centres`` (N, 2) are parts of the side.
    """
    sides = (size * shares.sqrt()).round().long()[:, None]
    starts = (centres * size).long() - sides // 2
    first, last = starts.clamp(min=0), (starts + sides).clamp(max=size)
    return rectangle_mask(first, last - first, size=size)

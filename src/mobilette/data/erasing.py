"""Random erasing."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from mobilette.data.rectangles import random_rectangles, rectangle_mask
from mobilette.data.transfer import to_device

AREA = (0.02, 0.4)
RATIO = 1 / 0.3


def erase(pixels: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """Return ``pixels``, with a random rectangle of noise in some of the images.

    Zhong et al. 2017, arXiv 1708.04896, Algorithm 1: a rectangle of 2% to 40% of the area, its
    sides in a ratio of 0.3 to 1/0.3 (here uniform in its logarithm), filled with random values
    as there. One sheet of noise is drawn a batch; each image shows its own
    rectangle of it.

    Args:
        pixels: uint8 (N, C, R, R) on any device.
        probability: for an image to be erased.
        generator: on the CPU; five numbers an image and C x R x R for the noise are taken.
    """
    count, channels, size, _ = pixels.shape
    draws = torch.rand(count, 5, generator=generator)
    noise = torch.randint(0, 256, (channels, size, size), dtype=torch.uint8, generator=generator)
    starts, sizes = random_rectangles(draws[:, 1:], size=size, area=AREA, ratio=RATIO)
    erased = draws[:, 0] < probability
    mask = rectangle_mask(starts, sizes * erased[:, None], size=size)
    return torch.where(to_device(mask, pixels.device), to_device(noise, pixels.device), pixels)

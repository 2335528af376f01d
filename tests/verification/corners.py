"""Noisy grey images whose class is the colour of a patch in one of their corners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
SIDE, PATCH = 48, 14


def corner_image(
    colour: str, corner: tuple[int, int], seed: int, *, side: int = SIDE
) -> NDArray[np.uint8]:
    """Return uint8 (side, side, 3); ``corner`` is 0 or 1 from the top and from the left."""
    noise = np.random.default_rng(seed).normal(128, 40, (side, side, 1))
    image = np.repeat(noise, 3, axis=2)
    patch = PATCH * side // SIDE
    top, left = (each * (side - patch) for each in corner)
    image[top : top + patch, left : left + patch] = (
        np.array(COLOURS[colour]) + noise[:patch, :patch] / 4 - 32
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def on_patch(place: tuple[int, int], corner: tuple[int, int], side: int = SIDE) -> bool:
    """Whether ``place`` (y, x) lies on the patch in ``corner``."""
    patch = PATCH * side // SIDE
    return all(
        (at >= side - patch) if far else (at < patch) for at, far in zip(place, corner, strict=True)
    )


def write_corners(root: Path, count: int) -> Path:
    """Write ``count`` images a colour, in the four corners in turn."""
    for number, colour in enumerate(COLOURS):
        (root / colour).mkdir(parents=True)
        for index in range(count):
            corner = (index // 2 % 2, index % 2)
            image = corner_image(colour, corner, 1000 * number + index)
            Image.fromarray(image).save(root / colour / f"{index}.png")
    return root

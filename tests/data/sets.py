"""Small divided sets of images in files, for the tests of loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mobilette.data.dataset import load_dataset
from mobilette.data.images import ImageSet
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.errors import InputError


def smooth(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """An image with edges at many scales, as photographs have, so that JPEGs are like it."""
    total = np.full((height, width, 3), 128.0)
    for size in (4, 16):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        resized = noise.resize((width, height), Image.Resampling.BILINEAR)
        total += (np.asarray(resized) - 128.0) / 2
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def divided(root: Path, *, train: int = 12, val: int = 6, size: tuple[int, int] = (80, 65)) -> Path:
    """Write ``train/`` and ``val/`` with two classes each, JPEG and PNG."""
    rng = np.random.default_rng(5)
    for split, count in (("train", train), ("val", val)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                suffix = "png" if index % 5 == 4 else "jpg"
                smooth(rng, *size).save(root / split / name / f"{index:03}.{suffix}")
    return root


def load_after(wait: Callable[[], object], root: Path, cache: Path) -> None:
    """Load a set once others are ready to, too. (Here, without what test modules import.)"""
    wait()
    load_dataset(
        find_images(root),
        resolution=16,
        preprocess=preset("torch"),
        reading=Reading(workers=0, cache=cache),
    )


def attempt(path: Path) -> ImageSet | str:
    """Return the set in ``path``, or what is wrong with it."""
    try:
        return find_images(path)
    except InputError as error:
        return str(error)


def labelled(images: ImageSet, split: str) -> list[tuple[str, object]]:
    """Return name and label of every image of a split."""
    return [(image.name, image.label) for image in images.splits[split]]

"""Real pixels that need no file of ours: two photographs that come with scikit-learn."""

from __future__ import annotations

import functools

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor


@functools.cache
def photographs(count: int, size: int, channels: int = 3) -> Tensor:
    """Return windows of the two photographs, uint8 (count, channels, size, size)."""
    windows = []
    for index in range(count):
        photograph = Image.fromarray(load_sample_image(("china.jpg", "flower.jpg")[index % 2]))
        left, top = 53 * index % 300, 31 * index % 90
        window = photograph.crop((left, top, left + 320, top + 320)).resize((size, size))
        windows.append(pixels_of(window.convert("RGB" if channels == 3 else "L")))
    return torch.stack(windows)


def image_of(pixels: Tensor) -> Image.Image:
    """Return a Pillow image of uint8 (C, H, W)."""
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def pixels_of(image: Image.Image) -> Tensor:
    """Return uint8 (C, H, W) of a Pillow image."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, len(image.getbands())).permute(2, 0, 1)

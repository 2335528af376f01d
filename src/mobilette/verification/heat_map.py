"""Grad-CAM: which parts of an image speak for an answer."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from mobilette.data.formats import UnusableImage
from mobilette.data.normalise import Normalise
from mobilette.engines.images import ImageLike, name_of, read_image
from mobilette.errors import InputError, visible
from mobilette.model.model import Model
from mobilette.run.directory import Run
from mobilette.run.inference import largest_batch

# The shorter side of the coarsest map that still shows places: 7 at 224 pixels, 4 at 128.
LEAST_SIDE = 4


def heat_map(
    model: Model | Run, image: ImageLike, *, class_index: int | None = None
) -> NDArray[np.float32]:
    """Return where ``image`` speaks for an answer, float32 (H, W) from 0 to 1.

    Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) from the last feature maps that are at least
    `LEAST_SIDE` positions high and wide, enlarged to the network's resolution: the pixels that
    `seen` returns. The warmest place is 1; all is 0 where nothing speaks for the class.

    Args:
        model: a run or a model.
        image: as for `mobilette.load(model).predict`.
        class_index: the class, counted from 0; by default the best guess.

    Raises:
        InputError: the image cannot be read, there is no such class, or no classifier.
    """
    subject = model.model if isinstance(model, Run) else model
    count = len(subject.classes)
    if class_index is not None and not 0 <= class_index < count:
        raise InputError(f"class_index {class_index} is not from 0 to {count - 1}")
    pixels = seen(subject, image)[None]
    chosen = None if class_index is None else np.array([class_index])
    return enlarged(grad_cams(subject, pixels, chosen)[0], subject.arch.size)


def seen(model: Model, image: ImageLike) -> NDArray[np.uint8]:
    """Return what the network sees of ``image``: uint8 (C, H, W), RGB or grey.

    Raises:
        InputError: the image cannot be read.
    """
    try:
        return model.preprocess.geometry(read_image(image), model.arch.resolution)
    except UnusableImage as error:
        raise InputError(visible(f"{name_of(image) or 'image'}: {error}")) from error


def grad_cams(
    model: Model, pixels: NDArray[np.uint8], classes: NDArray[np.intp] | None = None
) -> NDArray[np.float32]:
    """Return a map of each image for its class, float32 (N, h, w) from 0 to 1.

    Args:
        model: with a classifier.
        pixels: uint8 (N, C, H, W), as `seen`.
        classes: (N,), counted from 0; by default each image's best guess.
    """
    network, normalise = model.network, Normalise(model.preprocess)
    size, maps = largest_batch(network), []
    for first in range(0, len(pixels), size):
        x = normalise(torch.tensor(pixels[first : first + size]))
        with torch.enable_grad():
            logits, features = network.with_maps(x)
            chosen = (
                logits.argmax(1)
                if classes is None
                else torch.from_numpy(np.asarray(classes[first : first + size], np.int64))
            )
            last = features[coarsest_stride(features)]
            (gradients,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), last)
        weights = gradients.mean((2, 3), keepdim=True)
        maps.append(functional.relu((weights * last.detach()).sum(1)))
    return from_0_to_1(torch.cat(maps).numpy())


def coarsest_stride(maps: dict[int, torch.Tensor]) -> int:
    """Return the largest stride whose maps are at least `LEAST_SIDE` high and wide."""
    wide = [stride for stride, each in maps.items() if min(each.shape[2:]) >= LEAST_SIDE]
    return max(wide) if wide else min(maps)


def from_0_to_1(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``maps`` (N, h, w) without negative values, each divided by its largest."""
    positive = np.maximum(maps, 0)
    largest = positive.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float32] = np.divide(
        positive, largest, out=np.zeros_like(positive), where=largest > 0
    )
    return scaled


def enlarged(map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return ``map`` (h, w) at ``size`` (height, width), bilinear; values stay from 0 to 1."""
    image = Image.fromarray(np.ascontiguousarray(map, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR), np.float32)

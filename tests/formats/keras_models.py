"""Builds networks in Keras itself and asks them; a process of its own (see test_keras.py)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    """Write ``name.h5`` and, for two images, ``name.npz`` with the inputs and Keras' logits."""
    warnings.simplefilter("ignore")
    import keras

    applications = keras.applications
    keras.utils.set_random_seed(0)
    side = {"input_shape": (64, 64, 3), "weights": None, "classifier_activation": None}
    body = applications.MobileNetV2(
        alpha=0.35, input_shape=(96, 96, 3), include_top=False, weights=None
    )
    models = {
        "v1": applications.MobileNet(alpha=0.25, classes=7, **side),
        "v2": applications.MobileNetV2(alpha=0.35, classes=7, **side),
        "v3_small": applications.MobileNetV3Small(classes=7, include_preprocessing=False, **side),
        "v3_large_rescaled": applications.MobileNetV3Large(alpha=0.75, classes=7, **side),
        "v3_small_minimalistic": applications.MobileNetV3Small(
            minimalistic=True, classes=7, include_preprocessing=False, **side
        ),
        "v3_one_pixel": applications.MobileNetV3Small(
            alpha=0.75,
            classes=7,
            include_preprocessing=False,
            **(side | {"input_shape": (32, 32, 3)}),
        ),
        "vgg": _small_vgg(keras),
        "nested": keras.Sequential(
            [body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
        ),
    }
    random = np.random.default_rng(0)
    for name, model in models.items():
        scale = 255 if "rescaled" in name else 1
        images = random.uniform(0, scale, (8, *model.input_shape[1:])).astype(np.float32)
        give_statistics(keras, model, images, random)
        images = images[:2]
        logits = model.predict(images, verbose=0)
        model.save(folder / f"{name}.h5")
        np.savez(folder / f"{name}.npz", images=images, logits=logits)


def _small_vgg(keras: Any) -> Any:
    """VGG-11 at a quarter of its width: a flattened map of several pixels, layers with biases."""
    layers = [keras.layers.Input((224, 224, 3))]
    for channels in (16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"):
        if channels == "M":
            layers.append(keras.layers.MaxPooling2D(2))
        else:
            layers.append(keras.layers.Conv2D(channels, 3, padding="same", activation="relu"))
    dense = [keras.layers.Dense(1024, activation="relu") for _ in range(2)]
    return keras.Sequential([*layers, keras.layers.Flatten(), *dense, keras.layers.Dense(7)])


def give_statistics(keras: Any, model: Any, images: Any, random: np.random.Generator) -> None:
    """Give batch norms random weights, and the statistics of their own activations.

    Random statistics would drown the images: every network would give the same logits to all.
    """
    norms = [layer for layer in _layers(model) if type(layer) is keras.layers.BatchNormalization]
    for norm in norms:
        shape = norm.gamma.shape
        norm.gamma.assign(random.uniform(0.5, 1.5, shape))
        norm.beta.assign(random.uniform(-0.5, 0.5, shape))
        norm.momentum = 0.0
    model(images, training=True)


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        yield layer


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Keras' own networks as ``.keras`` files, with their logits, and files with code in them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 64
WRITTEN = "written_by_a_lambda"
# Name to constructor and width
NETWORKS = {
    "v1_025": ("MobileNet", 0.25),
    "v1_050": ("MobileNet", 0.5),
    "v1_100": ("MobileNet", 1.0),
    "v2_035": ("MobileNetV2", 0.35),
    "v2_100": ("MobileNetV2", 1.0),
    "v3_small": ("MobileNetV3Small", 1.0),
    "v3_large": ("MobileNetV3Large", 1.0),
    "v3_small_minimalistic": ("MobileNetV3Small", 1.0),
    "v3_large_minimalistic": ("MobileNetV3Large", 1.0),
}


def main(folder: Path) -> None:
    """Write ``name.keras`` and, for two images of 0 to 255, ``name.npz`` with Keras' logits."""
    warnings.simplefilter("ignore")
    import keras

    from tests.formats.keras_models import give_statistics

    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.float32)
    for name, (constructor, alpha) in NETWORKS.items():
        options = {"minimalistic": True} if "minimalistic" in name else {}
        model = getattr(keras.applications, constructor)(
            input_shape=(SIDE, SIDE, 3),
            alpha=alpha,
            weights=None,
            classes=7,
            classifier_activation=None,
            **options,
        )
        give_statistics(keras, model, images, random)
        logits = model.predict(images[:2], verbose=0)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", images=images[:2], logits=logits)
    for name, model in _refused(keras, folder).items():
        model.save(folder / f"{name}.keras")
    (folder / WRITTEN).unlink()


def _refused(keras: Any, folder: Path) -> dict[str, Any]:
    layers, register = keras.layers, keras.saving.register_keras_serializable("mine")
    written = str(folder / WRITTEN)

    class Blur(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    def gentle(x: Any) -> Any:
        return x

    def model(before: Any) -> Any:
        return keras.Sequential(
            [
                layers.Input((SIDE, SIDE, 3)),
                before,
                keras.applications.MobileNet(
                    input_shape=(SIDE, SIDE, 3), alpha=0.25, weights=None, classes=7
                ),
            ]
        )

    return {
        "efficientnet_v2": keras.applications.EfficientNetV2B0(
            input_shape=(SIDE, SIDE, 3), weights=None, classes=7
        ),
        "lambda": model(layers.Lambda(lambda x: (Path(written).write_text(""), x)[1])),
        "registered": model(register(Blur)()),
        "function": model(layers.Activation(register(gentle))),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

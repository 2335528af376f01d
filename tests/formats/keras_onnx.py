"""Writes ONNX files by Keras' exporter; a process of its own (see test_onnx.py)."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

from tests.formats.keras_models import give_statistics

SIDE = 64


def main(folder: Path) -> None:
    """Write ``name.onnx`` for V1, V2 and V3, whose preprocessing is inside."""
    warnings.simplefilter("ignore")
    import keras

    applications = keras.applications
    options = {"weights": None, "input_shape": (SIDE, SIDE, 3), "classes": 5}
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    models = {
        "v1": (applications.MobileNet(alpha=0.25, **options), 1),
        "v2": (applications.MobileNetV2(alpha=0.35, **options), 1),
        "v3": (applications.MobileNetV3Small(**options), 255),
    }
    for name, (model, scale) in models.items():
        images = random.uniform(0, scale, (8, SIDE, SIDE, 3)).astype(np.float32)
        give_statistics(keras, model, images, random)
        model(images[:1])
        model.export(folder / f"{name}.onnx", format="onnx", verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

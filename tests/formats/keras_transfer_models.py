"""What people make of Keras' networks, saved by Keras itself with its answers; its own process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 64


def main(folder: Path) -> None:
    """Write each model, and ``name.npz`` with three images (0 to 255) and Keras' outputs."""
    warnings.simplefilter("ignore")
    import keras

    from tests.formats.keras_models import give_statistics

    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.float32)
    for name, model in {**_classifiers(keras), **_odd_ones(keras)}.items():
        if not name.startswith("refused"):
            if name == "teachable":  # with the optimiser's variables in the file
                model.compile("adam", "sparse_categorical_crossentropy")
                model.train_on_batch(images, np.zeros(len(images)))
            give_statistics(keras, model, images, random)
            if name == "frozen":  # the order of the weights in an .h5 file goes by it
                for layer in model.layers[1].layers[:-8]:
                    layer.trainable = False
            images_of = images[:3, : model.input_shape[1] or SIDE, : model.input_shape[2] or SIDE]
            asked = model
            if name == "mixed":  # what its float32 weights answer where nothing is rounded
                asked = _small(keras)
                asked.set_weights(model.get_weights())
            outputs = asked.predict(images_of, verbose=0)
            np.savez(folder / f"{name}.npz", images=images_of, outputs=outputs)
        model.save(folder / f"{name}.keras")
        if name == "rescaled":
            keras.saving.save_model(model, folder / "folder", zipped=False)
        if name in ("rescaled", "frozen", "head_model", "normalised", "no_top", "teachable"):
            model.save(folder / f"{name}.h5")
            model.save_weights(folder / f"{name}.weights.h5")


def _base(keras: Any, **more: Any) -> Any:
    options = {"alpha": 0.35, "input_shape": (SIDE, SIDE, 3), "include_top": False, "weights": None}
    return keras.applications.MobileNetV2(**options | more)


def _classifiers(keras: Any) -> dict[str, Any]:
    layers, applications = keras.layers, keras.applications
    base = _base(keras)
    unit = layers.Rescaling(1 / 255)

    def model(*head: Any, before: Any = unit, side: int | None = SIDE, body: Any = base) -> Any:
        image = layers.Input((side, side, 3))
        x = body(before(image), training=False)
        for layer in (layers.GlobalAveragePooling2D(), layers.Dropout(0.2), *head):
            x = layer(x)
        return keras.Model(image, x)

    def stack(*parts: Any) -> Callable[[Any], Any]:
        def apply(x: Any) -> Any:
            for part in parts:
                x = part(x)
            return x

        return apply

    normalised = layers.Normalization()
    normalised.adapt(np.random.default_rng(1).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32))
    frozen = _base(keras, pooling="avg")
    found = {
        "rescaled": model(layers.Dense(5), before=layers.Rescaling(1 / 127.5, offset=-1)),
        "preprocessed": model(
            layers.Dense(5, activation="softmax"), before=applications.mobilenet_v2.preprocess_input
        ),
        "augmented": model(
            layers.Dense(5),
            before=stack(
                keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.2)]),
                layers.RandomContrast(0.1),
                layers.RandomZoom(0.2),
                layers.GaussianNoise(0.5),
                unit,
            ),
        ),
        "multiplied": model(
            layers.Dense(5), before=lambda x: (x * (1 / 64) + np.array([0.1, -2, 0.3])) / 2.5
        ),
        "binary": model(layers.Dense(1, activation="sigmoid")),
        "binary_layer": model(layers.Dense(1), layers.Activation("sigmoid")),
        "several": model(layers.Dense(4, activation="sigmoid")),
        "softmax_layer": model(layers.Dense(5), layers.Softmax()),
        "log_softmax": model(layers.Dense(5, activation="log_softmax")),
        "two_dense": model(layers.Dense(16, "relu"), layers.Dropout(0.5), layers.Dense(5)),
        "three_dense": model(layers.Dense(16, "relu"), layers.Dense(8, "relu"), layers.Dense(5)),
        "norms": model(
            layers.BatchNormalization(),
            layers.Dense(16),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.BatchNormalization(),
            layers.Dense(5, activation="softmax"),
        ),
        "temperature": model(layers.Dense(5), layers.Rescaling(0.5), layers.Softmax()),
        "normalised": model(layers.Dense(5), before=normalised),
        "normalised_constant": model(
            layers.Dense(5), before=layers.Normalization(mean=[10, 20, 30], variance=[4, 9, 16.0])
        ),
        "resized": model(
            layers.Dense(5), before=stack(layers.Resizing(SIDE, SIDE), unit), side=None
        ),
        "cropped": model(
            layers.Dense(5),
            before=stack(unit, layers.CenterCrop(48, 48)),
            body=_base(keras, input_shape=(48, 48, 3)),
        ),
        "frozen": keras.Sequential(
            [layers.Input((SIDE, SIDE, 3)), unit, frozen, layers.Dense(5, activation="softmax")]
        ),
        "head_model": keras.Sequential(
            [
                layers.Input((SIDE, SIDE, 3)),
                layers.Rescaling(1 / 255),
                base,
                layers.GlobalAveragePooling2D(),
                keras.Sequential([layers.Dropout(0.2), layers.Dense(5)], name="head"),
            ]
        ),
        # as Teachable Machine saves it
        "teachable": keras.Sequential(
            [
                layers.Input((SIDE, SIDE, 3)),
                keras.Sequential([_base(keras), layers.GlobalAveragePooling2D()]),
                keras.Sequential(
                    [
                        layers.Dense(100, activation="relu"),
                        layers.Dense(3, activation="softmax", use_bias=False),
                    ]
                ),
            ]
        ),
        "v1": applications.MobileNet(
            alpha=0.25, input_shape=(SIDE, SIDE, 3), classes=7, weights=None
        ),
        "v3_inside": model(
            layers.Dense(5),
            before=layers.RandomFlip(),
            body=applications.MobileNetV3Small(
                alpha=0.75, input_shape=(SIDE, SIDE, 3), include_top=False, weights=None
            ),
        ),
        "no_top": base,
        "no_top_pooled": _base(keras, pooling="avg"),
    }
    image = layers.Input((SIDE, SIDE, 3))
    flat = layers.Dense(5)(layers.Flatten()(base(unit(image))))
    found["flattened"] = keras.Model(image, flat)
    keras.config.set_dtype_policy("mixed_float16")
    found["mixed"] = _small(keras)
    keras.config.set_dtype_policy("float32")
    return found


def _small(keras: Any) -> Any:
    layers = keras.layers
    body = _base(keras, pooling="avg")
    first = [layers.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255)]
    return keras.Sequential([*first, body, layers.Dense(5, dtype="float32")])


def _odd_ones(keras: Any) -> dict[str, Any]:
    layers = keras.layers
    base = _base(keras, pooling="avg")

    def model(*parts: Any, before: Any = lambda x: x) -> Any:
        image = layers.Input((SIDE, SIDE, 3))
        x = base(before(image))
        for part in parts:
            x = part(x)
        return keras.Model(image, x)

    quantised = model(layers.Dense(5))
    quantised.quantize("int8")
    image = layers.Input((SIDE, SIDE, 3))
    features = base(image)
    two = keras.Model(image, [layers.Dense(5)(features), layers.Dense(3)(features)])
    other = layers.Input((1,))
    together = keras.Model([image, other], layers.Dense(5)(layers.Concatenate()([features, other])))
    maxima = keras.Sequential(
        [layers.Input((SIDE, SIDE, 3)), _base(keras), layers.GlobalMaxPooling2D(), layers.Dense(5)]
    )

    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.base, self.dense = base, layers.Dense(5)

        def call(self, x: Any) -> Any:
            return self.dense(self.base(x))

    own = Own()
    own(np.zeros((1, SIDE, SIDE, 3), np.float32))
    return {
        "refused_regression": model(layers.Dense(1)),
        "refused_softmax_of_one": model(layers.Dense(1, activation="softmax")),
        "refused_tanh": model(layers.Dense(5, activation="tanh")),
        "refused_relu": model(layers.Dense(5, activation="relu")),
        "refused_lambda": model(layers.Dense(5), before=layers.Lambda(lambda x: x / 255)),
        "refused_quantised": quantised,
        "refused_two_outputs": two,
        "refused_two_inputs": together,
        "refused_maxima": maxima,
        "refused_own": own,
        "refused_channels_first": keras.Sequential(
            [
                layers.Input((3, SIDE, SIDE)),
                layers.Conv2D(8, 3, data_format="channels_first"),
                layers.GlobalAveragePooling2D(data_format="channels_first"),
                layers.Dense(5),
            ]
        ),
        "refused_inverted": model(layers.Dense(5), before=lambda x: 1 - x / 255),
        "refused_crop": model(
            layers.Dense(5),
            before=lambda x: layers.CenterCrop(SIDE, SIDE)(layers.Resizing(96, 96)(x)),
        ),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

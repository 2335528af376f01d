"""`ImageClassifier`: training and prediction as a scikit-learn estimator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from mobilette.arch.scale import Form, Resolution
from mobilette.arguments import checked
from mobilette.data.formats import UnusableImage
from mobilette.data.images import ImageSet, LabelledImage
from mobilette.data.reading import Reading
from mobilette.engines.images import ImageLike, images_of, name_of, read_image
from mobilette.engines.load import load
from mobilette.errors import InputError, shown
from mobilette.folders import scratch
from mobilette.model.model import Model
from mobilette.run.metrics import softmax
from mobilette.training.events import Sitting
from mobilette.training.plan import NetworkChoice
from mobilette.training.recipe import Recipe, merge_keys
from mobilette.workflows.train import run_train

BATCH = 32


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn image classifier, trained like `mobilette.train`.

    ``X`` is a list of images, not a table: paths, Pillow images, bytes or arrays, in any mix, or
    one uint8 array (N, H, W, C) or (N, H, W). ``y`` has one label per image, of any sortable type.
    A fifth of each class is held out to choose the best epoch. The fitted estimator holds its
    weights, so it can be pickled; no files are left behind.

    Args:
        model: a name from `mobilette.list_models`.
        width_mult: the width multiplier.
        resolution: a side or (height, width), in pixels; by default one that suits the images.
        form: ``small`` or ``full``; by default ``small`` up to 64 pixels.
        start: initial weights, as for `mobilette.train`.
        recipe: a name, a TOML file or a `Recipe`, as for `mobilette.train`.
        epochs: passes over the images.
        time: wall-clock to fit the schedule into: seconds, or text such as ``"90s"``, ``"10m"``.
        batch_size: images per step.
        lr: peak learning rate.
        random_state: random seed.
        overrides: other recipe keys to replace.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.

    Attributes:
        classes_: the sorted labels, (classes,).
        model_: the trained `Model`, accepted by `mobilette.export`.
    """

    def __init__(
        self,
        model: str = "mobilenet_v2",
        *,
        width_mult: float | None = None,
        resolution: Resolution | None = None,
        form: Form | None = None,
        start: str | Path | Model = "auto",
        recipe: str | Path | Recipe | None = None,
        epochs: int | None = None,
        time: float | str | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        random_state: int | None = None,
        overrides: Mapping[str, object] | None = None,
        device: str = "auto",
        workers: int | None = None,
    ) -> None:
        self.model = model
        self.width_mult = width_mult
        self.resolution = resolution
        self.form = form
        self.start = start
        self.recipe = recipe
        self.epochs = epochs
        self.time = time
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.overrides = overrides
        self.device = device
        self.workers = workers

    def fit(self, X: object, y: Sequence[object] | NDArray[Any]) -> Self:
        """Train on images ``X`` with labels ``y``; return the estimator.

        Raises:
            InputError: an image cannot be read, the numbers of images and labels differ, there are
                fewer than two classes or images of a class, or an option is wrong.
        """
        images = _listed(X)
        labels, numbers = _classes(y)
        if len(images) != len(numbers):
            raise InputError(f"fit: {len(images)} images, but {len(numbers)} labels")
        counts = np.bincount(numbers)
        fewest = int(counts.argmin())
        if counts[fewest] < 2:
            raise InputError(
                f"fit: one image of class {shown(labels.tolist()[fewest])}; at least two are needed"
            )
        labelled = tuple(
            LabelledImage(
                name=f"{number:09}", label=int(label), content=_content(image, number + 1)
            )
            for number, (image, label) in enumerate(zip(images, numbers, strict=True))
        )
        classes = tuple(f"{number:06}" for number in range(len(labels)))
        found = ImageSet(name="X", classes=classes, splits={"all": labelled})
        self.model_ = fit(found, **self.get_params())
        self.classes_ = labels
        return self

    def predict_proba(self, X: object) -> NDArray[np.float64]:
        """Return the probability of each class of ``classes_`` for each image, (N, classes).

        Raises:
            InputError: an image cannot be read.
        """
        check_is_fitted(self)
        predictor = load(self.model_, device=self.device)
        resolution, preprocess = self.model_.arch.resolution, self.model_.preprocess
        images, found = _listed(X), []
        for first in range(0, len(images), BATCH):
            pixels = [
                preprocess.geometry(_read(image, number), resolution)
                for number, image in enumerate(images[first : first + BATCH], start=first + 1)
            ]
            logits = predictor.logits(np.stack(pixels))
            found.append(softmax(logits, temperature=self.model_.answering.temperature))
        return np.concatenate(found)

    def predict(self, X: object) -> NDArray[Any]:
        """Return the most probable label of each image, (N,).

        Raises:
            InputError: an image cannot be read.
        """
        check_is_fitted(self)
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True  # X is never made a table of numbers
        tags.non_deterministic = True
        return tags


@checked
def fit(
    images: ImageSet,
    *,
    model: str,
    width_mult: float | None,
    resolution: Resolution | None,
    form: Form | None,
    start: str | Path | Model,
    recipe: str | Path | Recipe | None,
    epochs: int | None,
    time: float | str | None,
    batch_size: int | None,
    lr: float | None,
    random_state: int | None,
    overrides: Mapping[str, object] | None,
    device: str,
    workers: int | None,
) -> Model:
    """Return the trained model; the run is removed."""
    keys = merge_keys(
        overrides, epochs=epochs, time=time, batch_size=batch_size, lr=lr, seed=random_state
    )
    with scratch() as folder:
        run = run_train(
            images,
            NetworkChoice(model, width_mult, resolution, form),
            start=start,
            recipe=recipe,
            overrides=keys,
            out=folder / "run",
            device=device,
            reading=Reading(workers=workers, max_unusable=0.0),
            sitting=Sitting(),
        )
        return run.model


def _listed(images: object) -> list[ImageLike]:
    listed = list(images_of(images))
    if not listed:
        raise InputError("X has no images")
    return listed


def _classes(y: object) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the sorted labels, and the index of each of ``y`` in them."""
    try:
        given = np.asarray(y)
        if given.ndim != 1 or (given.dtype.kind == "f" and not np.isfinite(given).all()):
            raise InputError(f"y is {shown(y)}; expected one label per image")
        labels, numbers = np.unique(given, return_inverse=True)
    except (TypeError, ValueError) as error:  # labels of several types, or of several lengths
        if isinstance(error, InputError):
            raise
        raise InputError(f"y is {shown(y)}; labels must be of one type that sorts") from error
    if given.dtype.kind == "f" and not (given == np.round(given)).all():
        raise InputError(f"y has {shown(float(given[0]))}, which is not a class")
    if len(labels) < 2:
        raise InputError(f"y has {len(labels)} classes; at least two are needed")
    return labels, numbers


def _content(image: ImageLike, number: int) -> Path | NDArray[np.uint8]:
    if isinstance(image, str | os.PathLike) and Path(os.fsdecode(image)).is_file():
        return Path(os.fsdecode(image))
    return np.asarray(_read(image, number), dtype=np.uint8)


def _read(image: ImageLike, number: int) -> Image.Image:
    try:
        return read_image(image)
    except UnusableImage as error:
        raise InputError(f"{name_of(image) or f'image {number}'}: {error}") from error

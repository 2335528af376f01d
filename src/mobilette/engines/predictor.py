"""`Predictor`: images in, labels out, with any engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arch.features import features_layer
from mobilette.data.ahead import computed_ahead
from mobilette.data.formats import UnusableImage
from mobilette.data.machine import usable_cores
from mobilette.data.preprocess import Preprocess
from mobilette.engines.answers import Embedding as Embedding
from mobilette.engines.answers import Failure as Failure
from mobilette.engines.answers import Guess as Guess
from mobilette.engines.answers import Prediction as Prediction
from mobilette.engines.images import (
    ImageLike,
    Images,
    images_of,
    may_be_shared,
    name_of,
    read_image,
)
from mobilette.errors import InputError, visible
from mobilette.limits import FRACTION, GUESSES, WORKERS
from mobilette.model.answering import PLAIN, UNKNOWN
from mobilette.model.classes import ClassLabel
from mobilette.run.answers import why_unknown
from mobilette.run.metrics import largest, sigmoid, softmax

BATCH = 32
# Images decoded ahead of the engine.
AHEAD = 2 * BATCH
TOP = 5
BELOW = "below the threshold"
NOT_FINITE = (
    "the network's answer is not finite (NaN or inf): its weights are damaged, or too large for "
    "its precision"
)

T = TypeVar("T")


class Predictor(ABC):
    """A network that answers images, and knows how to prepare them.

    Attributes:
        engine: its name, for tables.
        in_this_process: whether the engine runs in this process.
        answering: how logits become probabilities, and when the answer is ``unknown``.
    """

    engine: str
    in_this_process = True
    arch: Arch
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...]
    multi_label: bool = False
    answering = PLAIN

    @abstractmethod
    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W), RGB or grey."""

    @abstractmethod
    def batch_features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features (N, D) for one batch of ``pixels`` (N, C, H, W), RGB or grey."""

    @property
    def feature_count(self) -> int:
        """The number of features of an image."""
        return features_layer(self.arch).shape[0]

    def check_classifier(self) -> None:  # noqa: B027 - most have one
        """Raise `InputError` if there is no classifier; `batch_logits` would."""

    def check_features(self) -> None:  # noqa: B027 - most have them
        """Raise `InputError` if the model does not give features; `batch_features` would."""

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for ``pixels`` (N, C, H, W), RGB or grey, N > 0."""
        firsts = range(0, len(pixels), BATCH)
        return np.concatenate([self.batch_logits(pixels[i : i + BATCH]) for i in firsts])

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features (N, D) for ``pixels`` (N, C, H, W), RGB or grey, N > 0."""
        firsts = range(0, len(pixels), BATCH)
        return np.concatenate([self.batch_features(pixels[i : i + BATCH]) for i in firsts])

    def embed(self, images: Images) -> NDArray[np.float32]:
        """Return the features of each of ``images``, float32 (N, D), in order.

        Features are what the classifier reads: `mobilette.arch.features.features_layer`.

        Args:
            images: as for `predict`.

        Raises:
            InputError: the artifact was exported without features, ``images`` is one image, or one
                of them cannot be read.
        """
        self.check_features()
        rows = [_raised(row, number) for number, row in enumerate(self.embed_each(images), start=1)]
        if not rows:
            return np.empty((0, self.feature_count), np.float32)
        return np.stack([row.features for row in rows])

    def embed_each(
        self, images: Images, *, workers: int | None = None
    ) -> Generator[Embedding | Failure, None, None]:
        """Yield the features of each of ``images``, or a `Failure`, as `predict_each` does."""
        self.check_features()
        with closing(self._each(images, self.features, workers=workers)) as answers:
            for image, item in answers:
                name = name_of(image)
                if isinstance(item, Failure):
                    yield item
                elif np.isfinite(item).all():
                    yield Embedding(path=name, features=item)
                else:
                    yield Failure(path=name, error=NOT_FINITE)

    def predict(self, images: Images) -> list[Prediction]:
        """Return the answer for each of ``images``, in order.

        Probabilities sum to 1 over the classes; with ``multi_label`` each class has its own. After
        a promise, the label is ``unknown`` where the best guess is no answer.

        Args:
            images: an iterable of paths, encoded bytes, files opened in binary mode, Pillow images,
                and arrays or tensors: (H, W), (H, W, C) or (C, H, W) with 1, 3 (RGB) or 4 (RGBA)
                channels, of uint8, other integers from 0 to 255, floats from 0 to 1 or 0 to 255, or
                booleans. Or a batch of such images as one array.

        Raises:
            InputError: ``images`` is one image, or one of them cannot be read.
        """
        answers = self.predict_each(images)
        return [_raised(answer, number) for number, answer in enumerate(answers, start=1)]

    def predict_each(
        self,
        images: Images,
        *,
        workers: int | None = None,
        top: int | None = None,
        threshold: float | None = None,
    ) -> Generator[Prediction | Failure, None, None]:
        """Yield an answer, or a `Failure`, for each of ``images``, in order.

        Decoding runs ahead: `AHEAD` images are ready beside the `BATCH` that the engine works on.

        Args:
            images: as for `predict`; read as they are needed.
            workers: threads that decode; 0 decodes between batches; by default one per core.
            top: guesses of an image, at most; by default five, or all that reach ``threshold``.
            threshold: the probability that an answer needs. Guesses below it are left out, except
                the best; if that is below, the image is ``unknown``.

        Raises:
            InputError: ``images`` is one image, or has no images in it; a number is out of range.
        """
        pairs = self.predict_pairs(images, workers=workers, top=top, threshold=threshold)
        with closing(pairs):
            for _, answer in pairs:
                yield answer

    def predict_pairs(
        self,
        images: Images,
        *,
        workers: int | None = None,
        top: int | None = None,
        threshold: float | None = None,
        batch: int = BATCH,
    ) -> Generator[tuple[ImageLike, Prediction | Failure], None, None]:
        """Yield each of ``images`` with what `predict_each` yields for it.

        With a ``batch`` of 1 and no ``workers`` each is answered before the next is asked for.
        """
        self.check_classifier()
        GUESSES.check("top", top or TOP)
        FRACTION.check("threshold", threshold or 0.0)
        top = top or (TOP if threshold is None else len(self.classes))
        with closing(self._each(images, self.logits, workers=workers, batch=batch)) as answers:
            for image, item in answers:
                if isinstance(item, Failure):
                    yield image, item
                else:
                    yield image, self.answer(name_of(image), item, top=top, threshold=threshold)

    def _each(
        self,
        images: Images,
        answers: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        workers: int | None,
        batch: int = BATCH,
    ) -> Generator[tuple[ImageLike, NDArray[np.float32] | Failure], None, None]:
        """Yield each image with its row of ``answers``, or with why it cannot be read."""
        threads = usable_cores() if workers is None else workers
        WORKERS.check("workers", threads)
        decoded = computed_ahead(self._read_file, images_of(images), threads=threads, ahead=AHEAD)
        with closing(decoded):
            while several := list(islice(decoded, batch)):
                read = [self._read(image) if item is None else item for image, item in several]
                pixels = [item for item in read if not isinstance(item, Failure)]
                rows = iter(answers(np.stack(pixels)) if pixels else ())
                for (image, _), item in zip(several, read, strict=True):
                    yield image, item if isinstance(item, Failure) else next(rows)

    def _read_file(self, image: ImageLike) -> NDArray[np.uint8] | Failure | None:
        """Return what `_read` does for a file; ``None`` for an image that other threads may use."""
        return None if may_be_shared(image) else self._read(image)

    def _read(self, image: ImageLike) -> NDArray[np.uint8] | Failure:
        try:
            return self.preprocess.geometry(read_image(image), self.arch.resolution)
        except UnusableImage as error:
            return Failure(path=name_of(image), error=str(error))
        except MemoryError:
            return Failure(path=name_of(image), error="too large for the memory")

    def answer(
        self,
        name: str,
        logits: NDArray[np.float32],
        *,
        top: int = TOP,
        threshold: float | None = None,
    ) -> Prediction | Failure:
        """Return what one image's ``logits`` (classes,) say, with the ``top`` best guesses.

        A `Failure` if they are not finite. ``name`` becomes the answer's path; ``threshold`` is as
        for `predict_each`.
        """
        if not np.isfinite(logits).all():
            return Failure(path=name, error=NOT_FINITE)
        of = sigmoid if self.multi_label else softmax
        probabilities = of(logits[None], temperature=self.answering.temperature)[0]
        guesses = tuple(
            Guess(
                id=self.classes[index].id,
                label=self.classes[index].name,
                probability=float(probabilities[index]),
            )
            for index in largest(probabilities, top)
        )
        why_not = why_unknown(self.answering, guesses[0].probability, logits)
        if threshold is not None:
            reaching = tuple(each for each in guesses if each.probability >= threshold)
            why_not, guesses = why_not or BELOW * (not reaching), reaching or guesses[:1]
        return Prediction(
            path=name,
            label=UNKNOWN if why_not else guesses[0].label,
            probability=guesses[0].probability,
            top=guesses,
            answered=not why_not,
            reason=why_not,
        )


def _raised(answer: T | Failure, number: int) -> T:
    """Return ``answer``; a `Failure` is raised as `InputError`, with the image's number."""
    if isinstance(answer, Failure):
        raise InputError(visible(f"{answer.path or f'image {number}'}: {answer.error}"))
    return answer

"""`Predictor`: images in, labels out, with any engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arch.features import features_layer
from mobilette.data.formats import UnusableImage
from mobilette.data.machine import usable_cores
from mobilette.data.preprocess import Preprocess
from mobilette.engines.ahead import computed_ahead
from mobilette.engines.images import (
    ImageLike,
    Images,
    images_of,
    may_be_shared,
    name_of,
    read_image,
)
from mobilette.errors import InputError, visible
from mobilette.limits import WORKERS
from mobilette.model.answering import PLAIN, UNKNOWN
from mobilette.model.classes import ClassLabel
from mobilette.run.answers import why_unknown
from mobilette.run.metrics import sigmoid, softmax

BATCH = 32
# Images decoded ahead of the engine.
AHEAD = 2 * BATCH
TOP = 5
NOT_FINITE = (
    "the network's answer is not finite (NaN or inf): its weights are damaged, or too large for "
    "its precision"
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class and its probability, 0 to 1."""

    id: str
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image: the best guess and the five best.

    Attributes:
        label: the best guess's, or ``unknown`` if it is no answer.
        probability: the best guess's, calibrated.
        answered: whether the best guess is given as an answer.
        reason: why not: ``not sure enough`` or ``unlike the known images``.
    """

    path: str
    label: str
    probability: float
    top: tuple[Guess, ...]
    answered: bool = True
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the answer as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an image has no answer."""

    path: str
    error: str

    def to_json(self) -> dict[str, object]:
        """Return the failure as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """The features of one image, float32 (D,)."""

    path: str
    features: NDArray[np.float32]


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
        self, images: Images, *, workers: int | None = None
    ) -> Generator[Prediction | Failure, None, None]:
        """Yield an answer, or a `Failure`, for each of ``images``, in order.

        Decoding runs ahead: `AHEAD` images are ready beside the `BATCH` that the engine works on.

        Args:
            images: as for `predict`; read as they are needed.
            workers: threads that decode; 0 decodes between batches; by default one per core.

        Raises:
            InputError: ``images`` is one image, or has no images in it.
        """
        self.check_classifier()
        with closing(self._each(images, self.logits, workers=workers)) as answers:
            for image, item in answers:
                if isinstance(item, Failure):
                    yield item
                else:
                    yield self.answer(name_of(image), item)

    def _each(
        self,
        images: Images,
        answers: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        workers: int | None,
    ) -> Generator[tuple[ImageLike, NDArray[np.float32] | Failure], None, None]:
        """Yield each image with its row of ``answers``, or with why it cannot be read."""
        threads = usable_cores() if workers is None else workers
        WORKERS.check("workers", threads)
        decoded = computed_ahead(self._read_file, images_of(images), threads=threads, ahead=AHEAD)
        with closing(decoded):
            while batch := list(islice(decoded, BATCH)):
                read = [self._read(image) if item is None else item for image, item in batch]
                pixels = [item for item in read if not isinstance(item, Failure)]
                rows = iter(answers(np.stack(pixels)) if pixels else ())
                for (image, _), item in zip(batch, read, strict=True):
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
        self, name: str, logits: NDArray[np.float32], *, top: int = TOP
    ) -> Prediction | Failure:
        """Return what one image's ``logits`` (classes,) say, with the ``top`` best guesses.

        A `Failure` if they are not finite. ``name`` becomes the answer's path.
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


def largest(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the indices of the ``count`` largest of ``values``, the largest first, ties by index.

    Only these are sorted, which takes a fifth of the time among 1,000 classes.
    """
    count = min(count, len(values))
    among = np.flatnonzero(values >= np.partition(values, -count)[-count])
    chosen: NDArray[np.intp] = among[np.argsort(-values[among], kind="stable")[:count]]
    return chosen

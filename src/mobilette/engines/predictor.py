"""`Predictor`: pictures in, labels out, whatever executes the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.arch.arch import Arch
from mobilette.data.decoding import UnusablePicture, decode, upright_and_plain
from mobilette.data.preprocess import Preprocess
from mobilette.errors import InputError
from mobilette.run.classes import ClassLabel
from mobilette.run.metrics import sigmoid, softmax

BATCH = 32
TOP = 5

PictureLike = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class and its probability, 0 to 1."""

    id: str
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one picture: the best guess and the five best."""

    path: str
    label: str
    probability: float
    top: tuple[Guess, ...]

    def to_json(self) -> dict[str, object]:
        """Return the answer as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no answer for one picture."""

    path: str
    error: str

    def to_json(self) -> dict[str, object]:
        """Return the failure as JSON values."""
        return asdict(self)


class Predictor(ABC):
    """A network that can be asked; what it needs to know about pictures comes with it.

    Attributes:
        engine: the name of what executes it, for tables.
    """

    engine: ClassVar[str]
    arch: Arch
    preprocess: Preprocess
    classes: tuple[ClassLabel, ...]
    multi_label: bool = False

    @abstractmethod
    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W), RGB or grey."""

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for ``pixels`` (N, C, H, W), RGB or grey, of any N > 0."""
        firsts = range(0, len(pixels), BATCH)
        return np.concatenate([self.batch_logits(pixels[i : i + BATCH]) for i in firsts])

    def predict(self, images: Iterable[PictureLike]) -> list[Prediction]:
        """Return the answer for each of ``images``: paths, PIL images or uint8 (H, W[, 3]) arrays.

        A class's probability is that among all classes or, where ``multi_label``, for itself.

        Raises:
            InputError: a picture cannot be read.
        """
        if isinstance(images, str | Path | Image.Image):
            raise InputError("predict takes several images; give [image]")
        answers = []
        for answer in self.predict_each(images):
            if isinstance(answer, Failure):
                raise InputError(f"{answer.path}: {answer.error}")
            answers.append(answer)
        return answers

    def predict_each(self, images: Iterable[PictureLike]) -> Iterator[Prediction | Failure]:
        """Yield an answer, or why there is none, for each of ``images`` in their order."""
        remaining = iter(images)
        while batch := list(islice(remaining, BATCH)):
            read = [self._read(image) for image in batch]
            pixels = [item for item in read if not isinstance(item, Failure)]
            probabilities = iter(self._probabilities(np.stack(pixels)) if pixels else ())
            for image, item in zip(batch, read, strict=True):
                if isinstance(item, Failure):
                    yield item
                else:
                    yield self._prediction(_name(image), next(probabilities))

    def _probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        logits = self.logits(pixels)
        return sigmoid(logits) if self.multi_label else softmax(logits)

    def _read(self, image: PictureLike) -> NDArray[np.uint8] | Failure:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        try:
            plain = (
                upright_and_plain(image) if isinstance(image, Image.Image) else decode(Path(image))
            )
        except UnusablePicture as error:
            return Failure(path=_name(image), error=str(error))
        return self.preprocess.geometry(plain, self.arch.resolution)

    def _prediction(self, name: str, probabilities: NDArray[np.float64]) -> Prediction:
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        top = tuple(
            Guess(
                id=self.classes[index].id,
                label=self.classes[index].name,
                probability=float(probabilities[index]),
            )
            for index in best
        )
        return Prediction(path=name, label=top[0].label, probability=top[0].probability, top=top)


def _name(image: PictureLike) -> str:
    return str(image) if isinstance(image, str | Path) else ""

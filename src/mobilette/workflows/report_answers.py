"""What a report says of answers, as values: each of them, by class, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import LabelledImage
from mobilette.run.metrics import Metrics, wilson_interval
from mobilette.verification.promised import Promised
from mobilette.verification.statistics import Bin, distance


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A measured image and the answer to it.

    Attributes:
        true: its classes, as indices; one of them but in multi-label sets.
        guess: the best class.
        right: whether that is a true one.
        probability: the best class's, calibrated, 0 to 1.
        given: whether the best class is given as the answer; else it is ``unknown``.
    """

    image: LabelledImage
    true: tuple[int, ...]
    guess: int
    right: bool
    probability: float
    given: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatMap:
    """What the network saw of an image, and which parts of it spoke for the answer.

    Attributes:
        pixels: uint8 (C, H, W), RGB or grey.
        map: float32 (h, w), 0 to 1, of the same area.
    """

    pixels: NDArray[np.uint8]
    map: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How a class is answered.

    Attributes:
        images: how many have the class (the support).
        guessed: how many got it as the best class; in multi-label sets, with a probability of 50%
            or more.
        right: how many of these have it.
        average_precision: in multi-label sets alone.
    """

    id: str
    name: str
    images: int
    guessed: int
    right: int
    average_precision: float | None = None

    @property
    def precision(self) -> float | None:
        """The fraction of the answers that is right; ``None`` without answers."""
        return self.right / self.guessed if self.guessed else None

    @property
    def recall(self) -> float | None:
        """The fraction of the class's images that is found; ``None`` without images."""
        return self.right / self.images if self.images else None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities say how often answers are right, without and with the temperature."""

    temperature: float
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]

    @property
    def error_before(self) -> float:
        """The expected calibration error of plain probabilities, 0 to 1."""
        return distance(self.before)

    @property
    def error_after(self) -> float:
        """The same of calibrated ones."""
        return distance(self.after)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One pass over images that the model was not trained on.

    Attributes:
        data: the images, as they were named.
        split: which of them; empty if all.
        engine: what computed the answers.
        classes: every class of the model.
        matrix: images by true class and best class, (classes, classes); ``None`` in a multi-label
            set.
        answers: one per image.
        coverage: (fraction of the images answered, fraction of these answers that is wrong), the
            surest answers first; empty in a multi-label set.
        promised: what the promise comes to, if there is one.
        maps: of the most confident mistakes, by the images' names.
    """

    data: str
    split: str
    engine: str
    metrics: Metrics
    classes: tuple[ClassScore, ...]
    answers: tuple[Answer, ...] = field(repr=False)
    matrix: NDArray[np.int64] | None = field(repr=False)
    calibration: Calibration | None
    coverage: tuple[tuple[float, float], ...] = field(repr=False)
    promised: Promised | None
    maps: Mapping[str, HeatMap] = field(default_factory=dict, repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of top-1 (Wilson)."""
        return wilson_interval(self.metrics.top1, self.metrics.images)

    def mistakes(self) -> list[Answer]:
        """Return the wrong answers, the most confident first."""
        wrong = [answer for answer in self.answers if answer.true and not answer.right]
        return sorted(wrong, key=lambda answer: (-answer.probability, answer.image.name))

    def to_json(self) -> dict[str, Any]:
        """Return the content as JSON values; of the answers, the mistakes."""
        calibration = self.calibration
        return {
            "data": self.data,
            "split": self.split,
            "engine": self.engine,
            **self.metrics.to_json(),
            "top1_interval": self.interval,
            "classes": [
                asdict(each) | {"precision": each.precision, "recall": each.recall}
                for each in self.classes
            ],
            "mistakes": [
                {
                    "path": each.image.name,
                    "true": [self.classes[index].name for index in each.true],
                    "label": self.classes[each.guess].name,
                    "probability": each.probability,
                }
                for each in self.mistakes()
            ],
            "calibration": None
            if calibration is None
            else asdict(calibration)
            | {"error_before": calibration.error_before, "error_after": calibration.error_after},
            "promised": None if self.promised is None else asdict(self.promised),
        }

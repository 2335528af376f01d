"""What a predictor says of an image: a prediction, features, or why it cannot be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class and its probability, 0 to 1."""

    id: str
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image: the best guess, and the best few.

    Attributes:
        label: the best guess's, or ``unknown`` if it is no answer.
        probability: the best guess's, calibrated.
        top: five guesses, or as many as were asked for, the best first.
        answered: whether the best guess is given as an answer.
        reason: why not: ``not sure enough``, ``unlike the known images`` or ``below the
            threshold``.
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

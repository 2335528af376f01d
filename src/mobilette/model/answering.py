"""`Answering`: how logits become probabilities, and when the answer is ``unknown``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mobilette.limits import AMOUNT, FRACTION, SCORE, TEMPERATURE
from mobilette.records import Ranged

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Promise(Ranged):
    """How many of the answers that are given are wrong, and what keeps it so.

    Attributes:
        error: the largest fraction of the given answers that may be wrong.
        confidence: the probability, over the choice of ``pictures``, that the promise holds.
        threshold: the least probability of the best class with which an answer is given.
        coverage: the fraction of ``pictures`` that were answered.
        pictures: how many images the threshold was chosen on.
        split: which they were; those of ``val`` also chose the weights.
    """

    error: Annotated[float, FRACTION]
    confidence: Annotated[float, FRACTION]
    threshold: Annotated[float, FRACTION]
    coverage: Annotated[float, FRACTION]
    pictures: Annotated[int, AMOUNT]
    split: str


@dataclass(frozen=True, kw_only=True)
class Known(Ranged):
    """Which images are taken for ones of the classes.

    Attributes:
        score: ``energy``: log(sum(exp(logits))).
        threshold: the least score of a known image.
        kept: the fraction of the known images that reach it, at least, with 95% confidence.
        pictures: how many images the threshold was chosen on.
        split: which they were.
    """

    score: Literal["energy"]
    threshold: Annotated[float, SCORE]
    kept: Annotated[float, FRACTION]
    pictures: Annotated[int, AMOUNT]
    split: str


@dataclass(frozen=True, kw_only=True)
class Answering(Ranged):
    """How the logits of a model become answers.

    Attributes:
        temperature: what the logits are divided by before they become probabilities.
        promise: if there is one, less probable answers are ``unknown``.
        known: if it is there, so are images unlike the known ones.
    """

    temperature: Annotated[float, TEMPERATURE] = 1.0
    promise: Promise | None = None
    known: Known | None = None


PLAIN = Answering()

"""What a promise comes to: how many images are answered, and how many of the answers are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import Labels
from mobilette.model.answering import Answering
from mobilette.run.answers import answered
from mobilette.run.metrics import right_answers, wilson_interval


@dataclass(frozen=True, kw_only=True)
class Promised:
    """A promise, measured on images.

    Attributes:
        promised: the largest fraction of the answers that may be wrong.
        answered: how many images got an answer other than ``unknown``.
        coverage: the fraction of the images that did.
        error: the fraction of the answers that were wrong; ``None`` without answers.
        interval: the 95% confidence interval of ``error`` (Wilson).
    """

    promised: float
    answered: int
    coverage: float
    error: float | None
    interval: tuple[float, float]


def measure_promise(
    logits: NDArray[np.float32], labels: Labels, answering: Answering
) -> Promised | None:
    """Return what the promise of ``answering`` comes to; ``None`` if there is none.

    Args:
        logits: of N > 0 images, (N, classes).
        labels: of the same images.
        answering: how these logits become answers.
    """
    if answering.promise is None:
        return None
    given = answered(logits, answering, multi_label=labels.ndim == 2)
    count = int(given.sum())
    error = float(1 - right_answers(logits, labels)[given].mean()) if count else None
    return Promised(
        promised=answering.promise.error,
        answered=count,
        coverage=count / len(logits),
        error=error,
        interval=wilson_interval(error or 0.0, count),
    )

"""Which images get an answer, and which are ``unknown``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobilette.model.answering import Answering
from mobilette.run.metrics import log_sum_exp, sigmoid, softmax


def answered(
    logits: NDArray[np.float32], answering: Answering, *, multi_label: bool = False
) -> NDArray[np.bool_]:
    """Return which rows of ``logits`` (N, classes) get an answer, bool (N,).

    An image is ``unknown`` if its best class is less probable than the promise's threshold, if its
    score is below that of known images, or if its logits are not finite.
    """
    given: NDArray[np.bool_] = np.asarray(np.isfinite(logits).all(axis=1), np.bool_)
    safe = np.where(given[:, None], logits, np.float32(0))
    if answering.promise is not None:
        of = sigmoid if multi_label else softmax
        best = of(safe, temperature=answering.temperature).max(axis=1)
        given = np.logical_and(given, best >= answering.promise.threshold)
    if answering.known is not None:
        given = np.logical_and(given, log_sum_exp(safe) >= answering.known.threshold)
    return given

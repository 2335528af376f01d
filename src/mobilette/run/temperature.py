"""`fit_temperature`: makes a model's probabilities say how often it is right."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import Labels
from mobilette.limits import TEMPERATURE
from mobilette.run.metrics import log_sum_exp, right_answers

FEWEST = 50
# Rounded as in the README's code, so that every engine computes with the same number.
DIGITS = 4


def fit_temperature(logits: NDArray[np.float32], labels: Labels) -> tuple[float, str]:
    """Return what ``logits`` (N, classes) have to be divided by, and why it is 1 if none is fitted.

    It minimises the mean negative log-likelihood of images that the model was not trained on (Guo,
    Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017): of the softmax
    for labels (N,), of independent sigmoids for labels (N, classes). The order of the classes stays
    as it is. Images with logits that are not finite are left out.
    """
    from scipy.optimize import minimize_scalar  # takes 0.2 s to import

    finite = np.isfinite(logits).all(axis=1)
    logits, labels = logits[finite], labels[finite]
    if len(logits) < FEWEST:
        return 1.0, f"{len(logits)} images are too few, at least {FEWEST} are needed"
    if labels.ndim == 1 and right_answers(logits, labels).all():
        return 1.0, f"all {len(logits):,} answers are right"
    wide = logits.astype(np.float64)
    loss = _several if labels.ndim == 2 else _one
    # Convex in the factor on the logits.
    bounds = (1 / TEMPERATURE.highest, 1 / TEMPERATURE.lowest)
    found = minimize_scalar(
        lambda factor: loss(factor * wide, labels),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-5},
    )
    temperature = 1 / float(found.x)
    rounded = round(temperature, DIGITS - 1 - math.floor(math.log10(temperature)))
    return min(max(rounded, TEMPERATURE.lowest), TEMPERATURE.highest), ""


def _one(logits: NDArray[np.float64], labels: Labels) -> float:
    true = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return float((log_sum_exp(logits) - true).mean())


def _several(logits: NDArray[np.float64], labels: Labels) -> float:
    return float((np.logaddexp(0, logits) - np.where(labels == 1, logits, 0)).mean())

"""How the answers of two networks differ, and how sure one may be of an accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import Labels
from mobilette.run.metrics import right_answers, softmax

BINS = 15
# The normal distribution's 97.5% point: 95% lie between its two sides.
Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the logits of an artifact differ from the checkpoint's on the same images.

    Attributes:
        images: how many images.
        max_abs_diff: infinite where the artifact's logits are not finite.
        scale: the checkpoint's largest absolute logit, at least 1.
        signal_to_noise_db: of all logits, as `signal_to_noise` says.
        top1_agreement: fraction of images with the same largest logit.
        flips: images with another one.
        constant: whether the artifact answers the same for all images, and the checkpoint not.
    """

    images: int
    max_abs_diff: float
    scale: float
    signal_to_noise_db: float
    top1_agreement: float
    flips: int
    constant: bool


def compare(artifact: NDArray[np.float32], checkpoint: NDArray[np.float32]) -> Comparison:
    """Return how ``artifact`` differs from ``checkpoint``, both (N, classes)."""
    wide = artifact.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(wide - checkpoint)
    same = (artifact.argmax(axis=1) == checkpoint.argmax(axis=1)) & np.isfinite(artifact).all(1)
    return Comparison(
        images=len(artifact),
        max_abs_diff=float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()),
        scale=max(1.0, float(np.abs(checkpoint).max())),
        signal_to_noise_db=signal_to_noise(artifact, checkpoint),
        top1_agreement=float(same.mean()),
        flips=int((~same).sum()),
        constant=_is_constant(artifact) and not _is_constant(checkpoint),
    )


def _is_constant(logits: NDArray[np.float32]) -> bool:
    return len(logits) > 1 and bool((logits == logits[0]).all())


def right_answers_kept(
    artifact: NDArray[np.float32], checkpoint: NDArray[np.float32], labels: Labels
) -> float:
    """Return the part of the images that ``checkpoint`` has right which ``artifact`` has, too.

    1 where it has none right. Both are logits (N, classes).
    """
    right = right_answers(checkpoint, labels)
    if not right.any():
        return 1.0
    return float(right_answers(artifact, labels)[right].mean())


def signal_to_noise(artifact: NDArray[np.float32], checkpoint: NDArray[np.float32]) -> float:
    """Return ten times the decimal logarithm of the power of signal over noise, in dB.

    Signal is ``checkpoint``, noise the difference. Infinite where there is none, minus infinity
    where ``artifact`` is not finite or there is no signal.
    """
    signal = float((checkpoint.astype(np.float64) ** 2).sum())
    with np.errstate(invalid="ignore", over="ignore"):
        noise = float(((artifact.astype(np.float64) - checkpoint) ** 2).sum())
    if noise == 0.0:
        return math.inf
    if not math.isfinite(noise) or signal == 0.0:
        return -math.inf
    return 10.0 * math.log10(signal / noise)


def wilson_interval(fraction: float, images: int) -> tuple[float, float]:
    """Return between which fractions the true one lies with a confidence of 95%.

    Wilson's score interval (Probable inference, the law of succession, and statistical inference,
    JASA 22, 1927), which stays inside 0 to 1 and has a width at 0 and 1, too. ``images`` is how
    many the ``fraction`` is of; without any, nothing is known: 0 to 1.
    """
    if images == 0:
        return 0.0, 1.0
    spread = Z95**2 / images
    centre = (fraction + spread / 2) / (1 + spread)
    half = math.sqrt(fraction * (1 - fraction) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(logits: NDArray[np.float32], labels: Labels) -> float:
    """Return the expected calibration error of ``logits`` (N, classes), 0 to 1.

    Images are put into 15 bins of equal width by the softmax of their largest logit; it is the
    mean over all images of the distance between accuracy and mean confidence of their bin (Guo,
    Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017). Logits that
    are not finite are wrong answers of full confidence.

    Args:
        logits: float32 (N, classes), N at least 1.
        labels: the true classes, (N,); not those of several classes an image.
    """
    finite = np.isfinite(logits).all(axis=1)
    confidence = np.ones(len(logits))
    confidence[finite] = softmax(logits[finite]).max(axis=1)
    right = (logits.argmax(axis=1) == labels) & finite
    # A bin contains its upper end.
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    distances = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(distances).sum() / len(logits))

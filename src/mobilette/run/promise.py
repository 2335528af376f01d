"""Promises: when a model had better say ``unknown``, so that few of its answers are wrong."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.errors import InputError, shown
from mobilette.limits import SCORE

CONFIDENCE = 0.95
# The thresholds that are tried, the highest first: fixed before a label is seen.
THRESHOLDS = np.round(1 - 10 ** -np.linspace(6, 0, 301), 6)
# The first one tried is passed by so many times the fewest images that could show the promise, or
# by a quarter of the images: with fewer answers one mistake may end the search, with more they are
# too unsure to begin with (docs/promises.md).
FIRST, QUARTER = 3, 4
# Decimals of a score's threshold, so that every engine compares with the same number.
DIGITS = 4
_PART = re.compile(r"(error *(?:<=|≤)|known *(?:>=|≥)) *([0-9]{1,20}(?:\.[0-9]{1,20})?) *(%?)")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a promise should say; fractions.

    Attributes:
        error: the largest part of the given answers that may be wrong; ``None`` promises nothing.
        kept: the least part of the images of known classes that are not taken for others; ``None``
            takes none for others.
    """

    error: float | None = None
    kept: float | None = None

    def __str__(self) -> str:
        parts = [] if self.error is None else [f"error<={percent(self.error)}"]
        return ",".join(parts if self.kept is None else [*parts, f"known>={percent(self.kept)}"])


def percent(part: float) -> str:
    """Return a fraction as text, such as 0.5%."""
    return f"{100 * part:.6g}%"


def parse_promise(text: str) -> Asked:
    """Return what ``error<=1%``, ``known>=95%`` or both, with a comma, ask for.

    Raises:
        InputError: it is neither, or a number is out of range.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or match[1][:5] in found:
            raise InputError(
                f"--promise {shown(text)} is not a promise; write 'error<=1%', 'known>=95%' or "
                "both, with a comma"
            )
        value = float(match[2]) / (100 if match[3] else 1)
        what = match[1][:5]
        if not 0 < value < 1:
            unit = f"; a percentage ends in %: {what}{match[1][-2:]}{match[2]}%"
            hint = unit if not match[3] and value > 1 else ""
            why = ": no number of images shows that" if value in (0.0, 1.0) else ""
            raise InputError(
                f"--promise {shown(text)}: {what} {match[2]}{match[3]} is not between 0% and 100%, "
                f"both left out{why}{hint}"
            )
        found[what] = value
    return Asked(error=found.get("error"), kept=found.get("known"))


def images_needed(part: float) -> int:
    """Return how many images without a fault show that faults are at most ``part``."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-part))


def largest_part(faults: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the upper ends of Clopper and Pearson's one-sided intervals (Biometrika 26, 1934).

    If ``faults`` of ``images`` independent images have a fault, the part of all images that have
    one is at most this, with the probability `CONFIDENCE`.
    """
    from scipy.stats import beta  # takes 0.6 s to import

    sound = images - faults
    bounds: NDArray[np.float64] = beta.ppf(CONFIDENCE, faults + 1, np.maximum(sound, 1))
    return np.where(sound > 0, bounds, 1.0)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The threshold found, ``None`` if none keeps the promise.

    Attributes:
        answers: the number of images that are answered with it.
        bound: the largest part of wrong answers with it; without it, the smallest that any has.
    """

    value: float | None
    answers: int
    bound: float


def choose_threshold(
    probability: NDArray[np.float64], right: NDArray[np.bool_], error: float
) -> Threshold:
    """Return the lowest threshold at which at most ``error`` of the given answers is wrong.

    Thresholds are hypotheses, tested from the highest to the lowest until one is not rejected
    (fixed-sequence testing), each by an exact binomial bound on the answers given: so the one that
    is returned keeps the promise with the probability `CONFIDENCE` (Angelopoulos, Bates, Candès,
    Jordan and Lei, Learn then Test, 2021; for selective classification Geifman and El-Yaniv, 2017).
    Where the sequence begins depends on the number of answers, not on whether they are right.

    Args:
        probability: of the best class, (N,).
        right: whether it is the true one, (N,).
        error: the largest part of wrong answers, 0 to 1.
    """
    order = np.argsort(-probability, kind="stable")
    answers = np.searchsorted(-probability[order], -THRESHOLDS, side="right")
    wrong = np.concatenate([[0], np.cumsum(~right[order])])[answers]
    needed = images_needed(error)
    tried = np.flatnonzero(answers >= max(needed, min(FIRST * needed, len(right) // QUARTER)))
    bounds = largest_part(wrong[tried], answers[tried])
    kept = int(np.argmax(np.append(bounds > error, True)))  # before the first that does not keep it
    if not len(tried):
        return Threshold(value=None, answers=0, bound=1.0)
    at = kept - 1 if kept else int(bounds.argmin())
    return Threshold(
        value=float(THRESHOLDS[tried[at]]) if kept else None,
        answers=int(answers[tried[at]]),
        bound=float(bounds[at]),
    )


def choose_least_score(score: NDArray[np.float64], kept: float) -> float:
    """Return a threshold that at least ``kept`` of all such images reach, by `CONFIDENCE`.

    It is an order statistic: a one-sided tolerance limit that supposes no distribution (Wilks,
    Annals of Mathematical Statistics 12, 1941). It needs ``images_needed(1 - kept)`` images.
    """
    from scipy.stats import binom

    ranks = np.arange(1, len(score) + 1)
    rank = int((binom.sf(ranks - 1, len(score), 1 - kept) >= CONFIDENCE).sum())
    least = float(np.sort(score)[max(rank, 1) - 1])
    return math.floor(least * 10**DIGITS) / 10**DIGITS if math.isfinite(least) else -SCORE.highest

"""How logits become answers, and fitting that on images that trained nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import Labels
from mobilette.errors import InputError
from mobilette.model.answering import Answering, Known, Promise
from mobilette.run.metrics import log_sum_exp, right_answers, sigmoid, softmax
from mobilette.run.promise import (
    CONFIDENCE,
    Asked,
    Threshold,
    choose_least_score,
    choose_threshold,
    images_needed,
    percent,
)
from mobilette.run.temperature import fit_temperature

NOT_SURE = "not sure enough"
UNLIKE = "unlike the known images"


def why_unknown(answering: Answering, probability: float, logits: NDArray[np.float32]) -> str:
    """Return why no answer is given to an image, or nothing.

    ``probability`` is that of the best class, ``logits`` are the image's, (classes,).
    """
    known, promise = answering.known, answering.promise
    if known is not None and log_sum_exp(logits[None])[0] < known.threshold:
        return UNLIKE
    return NOT_SURE if promise is not None and probability < promise.threshold else ""


def answered(
    logits: NDArray[np.float32], answering: Answering, *, multi_label: bool = False
) -> NDArray[np.bool_]:
    """Return which rows of ``logits`` (N, classes) get an answer, bool (N,); finite ones may."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(logits).all(axis=1), np.bool_)
    probabilities = sigmoid if multi_label else softmax
    safe = np.where(finite[:, None], logits, np.float32(0))
    best = probabilities(safe, temperature=answering.temperature).max(axis=1)
    rows = zip(finite, best, safe, strict=True)
    return np.array([ok and not why_unknown(answering, p, row) for ok, p, row in rows], np.bool_)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """How a model answers, and what to say about it; ``kept`` unless a promise cannot be."""

    answering: Answering
    remarks: tuple[str, ...]
    kept: bool


def check_promise(asked: Asked, *, images: int, multi_label: bool, where: str) -> None:
    """Raise `InputError` unless ``images`` images of one class each can show what is ``asked``."""
    if multi_label:
        raise InputError(
            f"{where}: an image may have several classes, but a promise is about one answer; "
            "without --promise the probabilities of the classes are calibrated all the same"
        )
    for part in (asked.error, None if asked.kept is None else 1 - asked.kept):
        if part is not None and images < (needed := images_needed(part)):
            raise InputError(
                f"{where}: {images:,} images held out are too few to promise {asked}; at least "
                f"{needed:,} are needed"
            )


def fit_answering(
    logits: NDArray[np.float32],
    labels: Labels,
    *,
    split: str,
    asked: Asked | None = None,
    temperature: float | None = None,
) -> Fitted:
    """Return how to answer by ``logits`` (N, classes), fitted on images with ``labels``.

    ``split`` is what these images are; they should be none that the model was trained on. What is
    ``asked`` has passed `check_promise`. A ``temperature`` that is given is kept.
    """
    said = []
    if temperature is None:
        temperature, why_not = fit_temperature(logits, labels)
        fitted = f"fitted on {len(labels):,} images of {split}"
        said.append(
            f"temperature {temperature:g}, {f'not fitted: {why_not}' if why_not else fitted}"
        )
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    safe = np.where(finite[:, None], logits, np.float32(0))
    score = np.where(finite, log_sum_exp(safe), -np.inf)
    known = promise = None
    if asked is not None and asked.kept is not None:
        known = Known(
            score="energy",
            threshold=choose_least_score(score, asked.kept),
            kept=asked.kept,
            pictures=len(labels),
            split=split,
        )
        finite &= score >= known.threshold
        said.append(
            f"images of the classes are taken for such, {percent(known.kept)} of them at least, "
            f"from an energy of {known.threshold:.4g}; {finite.mean():.1%} of the {split} were"
        )
    if asked is not None and asked.error is not None:
        probability = softmax(safe, temperature=temperature).max(axis=1)
        right = right_answers(logits, labels)
        found = choose_threshold(probability[finite], right[finite], asked.error)
        promise = _promise(found, asked.error, len(labels), split)
        said.append(_said(found, asked.error, len(labels), split))
    return Fitted(
        answering=Answering(temperature=temperature, promise=promise, known=known),
        remarks=tuple(said),
        kept=asked is None or asked.error is None or promise is not None,
    )


def _promise(found: Threshold, error: float, images: int, split: str) -> Promise | None:
    if found.value is None:
        return None
    return Promise(
        error=error,
        confidence=CONFIDENCE,
        threshold=found.value,
        coverage=found.answers / images,
        pictures=images,
        split=split,
    )


def _said(found: Threshold, error: float, images: int, split: str) -> str:
    share = f"{found.answers / images:.1%} of {images:,} images of {split}"
    if found.value is None:
        return (
            f"error<={percent(error)} is NOT promised, no threshold keeps it: with 95% confidence "
            f"{found.bound:.2%} of the answers may be wrong at best, where {share} are answered"
        )
    chose = ", which also chose the weights" if split == "val" else ""
    return (
        f"error<={percent(error)} is promised with 95% confidence from a probability of "
        f"{found.value:g}: {share} are answered{chose}"
    )

"""The measured part of a report: one pass over held-out images gives all of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import LabelledImage, Labels, indices_of
from mobilette.data.reading import Reading
from mobilette.engines.predictor import Predictor
from mobilette.model.answering import Answering
from mobilette.model.classes import ClassLabel
from mobilette.model.model import Model
from mobilette.progress import Reporter
from mobilette.run.answers import answered
from mobilette.run.metrics import Metrics, measure, right_answers, sigmoid, softmax
from mobilette.verification.evaluate import read_labelled
from mobilette.verification.heat_map import grad_cams
from mobilette.verification.promised import measure_promise
from mobilette.verification.statistics import reliability
from mobilette.workflows.report_answers import Answer, Calibration, ClassScore, HeatMap, Measured

MAPPED = 24  # mistakes with a heat map
APPLIES = 0.5  # probability of a class, in multi-label sets
_POINTS = 200  # of the curve of coverage


def measure_answers(
    predictor: Predictor,
    data: str,
    reading: Reading,
    reporter: Reporter,
    *,
    model: Model | None = None,
) -> Measured:
    """Return what ``predictor`` answers to the images of ``data`` that ``reading`` chooses.

    ``model``, what was trained, tells where it looked when it was wrong.

    Raises:
        InputError: as for `mobilette.evaluate`.
    """
    predictor.check_classifier()
    labelled, read = read_labelled(predictor, data, reading, reporter)
    logits, labels = predictor.logits(read.split.pixels[:]), read.split.labels
    found = measure(logits, labels, [label.id for label in predictor.classes])
    metrics = replace(
        found,
        classes_matched_by=labelled.matched_by,
        trained_left_out=read.left_out,
        includes_trained=read.includes_trained,
    )
    answers = _answers(read.images, logits, labels, predictor.answering)
    single = labels.ndim == 1
    measured = Measured(
        data=data,
        split=labelled.choice.part or reading.split or "",
        engine=predictor.engine,
        metrics=metrics,
        classes=_scores(predictor.classes, logits, labels, predictor.answering, metrics),
        answers=answers,
        matrix=_matrix(answers, len(predictor.classes)) if single else None,
        calibration=_calibration(logits, labels, predictor.answering) if single else None,
        coverage=_coverage(answers) if single else (),
        promised=measure_promise(logits, labels, predictor.answering),
    )
    return replace(measured, maps=_maps(model, measured, read.split.pixels[:]))


def _maps(model: Model | None, measured: Measured, pixels: NDArray[np.uint8]) -> dict[str, HeatMap]:
    """Return heat maps of the most confident mistakes, for the class that was answered."""
    mistakes = measured.mistakes()[:MAPPED]
    if model is None or not model.has_classifier or not mistakes:
        return {}
    place = {id(answer): row for row, answer in enumerate(measured.answers)}
    chosen = pixels[[place[id(answer)] for answer in mistakes]]
    maps = grad_cams(model, chosen, np.array([answer.guess for answer in mistakes]))
    return {
        answer.image.name: HeatMap(pixels=some, map=one)
        for answer, some, one in zip(mistakes, chosen, maps, strict=True)
    }


def _answers(
    images: Sequence[LabelledImage],
    logits: NDArray[np.float32],
    labels: Labels,
    answering: Answering,
) -> tuple[Answer, ...]:
    several = labels.ndim == 2
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    safe = np.where(finite[:, None], logits, np.float32(0))
    best = (sigmoid if several else softmax)(safe, temperature=answering.temperature).max(axis=1)
    given = answered(logits, answering, multi_label=several)
    rows = zip(
        images, logits.argmax(axis=1), right_answers(logits, labels), best, given, strict=True
    )
    return tuple(
        Answer(
            image=image,
            true=tuple(indices_of(image.label)),
            guess=int(guess),
            right=bool(right),
            probability=float(probability),
            given=bool(is_given),
        )
        for image, guess, right, probability, is_given in rows
    )


def _scores(
    classes: Sequence[ClassLabel],
    logits: NDArray[np.float32],
    labels: Labels,
    answering: Answering,
    metrics: Metrics,
) -> tuple[ClassScore, ...]:
    if labels.ndim == 2:
        true = labels > 0
        given = sigmoid(logits, temperature=answering.temperature) >= APPLIES
    else:
        true, given = (np.eye(len(classes), dtype=bool)[x] for x in (labels, logits.argmax(axis=1)))
    images, guessed, right = (each.sum(axis=0) for each in (true, given, true & given))
    return tuple(
        ClassScore(
            id=label.id,
            name=label.name,
            images=int(images[index]),
            guessed=int(guessed[index]),
            right=int(right[index]),
            average_precision=metrics.per_class.get(label.id, {}).get("average_precision"),
        )
        for index, label in enumerate(classes)
    )


def _matrix(answers: Sequence[Answer], count: int) -> NDArray[np.int64]:
    pairs = np.array([answer.true[0] * count + answer.guess for answer in answers])
    return np.bincount(pairs, minlength=count * count).reshape(count, count).astype(np.int64)


def _calibration(logits: NDArray[np.float32], labels: Labels, answering: Answering) -> Calibration:
    return Calibration(
        temperature=answering.temperature,
        before=reliability(logits, labels),
        after=reliability(logits, labels, temperature=answering.temperature),
    )


def _coverage(answers: Sequence[Answer]) -> tuple[tuple[float, float], ...]:
    """Return what is wrong of the surest answers, for every number of them or so."""
    surest = sorted(answers, key=lambda answer: -answer.probability)
    wrong = np.cumsum([not answer.right for answer in surest])
    counts = np.arange(1, len(surest) + 1)
    # Where several are equally sure, all of them are answered or none.
    ends = [
        number
        for number, answer in enumerate(surest)
        if number + 1 == len(surest) or surest[number + 1].probability < answer.probability
    ]
    chosen = ends[:: max(1, len(ends) // _POINTS)]
    if ends and chosen[-1] != ends[-1]:
        chosen.append(ends[-1])
    return tuple((float(counts[at] / len(surest)), float(wrong[at] / counts[at])) for at in chosen)

"""Which labels of a set are likely wrong, which classes are confused, what more images would bring.

All of it is read off probabilities that a classifier gives to images it was not trained on. With
some of the labels wrong at random, a label y of an image with class probabilities p is wrong with
the probability (Bayes' rule)

    e (1 - p[y]) / (e (1 - p[y]) + (1 - e) (K - 1) p[y])

where e is the share of wrong labels among all. That share and the temperature that makes p honest
are those under which the labels are most likely. The idea of reading wrong labels off confident
predictions is that of confident learning (Northcutt et al. 2021, arXiv 1911.00068).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
Integers = NDArray[np.int64]

# Fits a classifier to images and returns its log-probabilities, (M, classes), of others: called
# with the rows to fit and the M rows to answer.
Fit = Callable[[Integers, Integers], Probabilities]

_PARTS = (0.25, 0.5)  # of the images, for the curve
_LIKELY = 0.4
# Before any label is seen, 4% are taken to be wrong, as if 100 images had said so (Northcutt,
# Athalye and Mueller 2021, arXiv 2103.14749, find 3.3% in ten well-known sets).
_WRONG_BEFORE, _RIGHT_BEFORE = 4.0, 96.0
_RESAMPLINGS = 1000
# More where images are few, and fewer where fitting takes minutes.
_FOLDS, _FOLDS_OF_FEW, _FEW, _FOLDS_IF_SLOW = 5, 10, 2000, 3
_FEWEST = 3  # images of a class taken for another that are named


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How many ``images`` of the class ``label`` are taken for another, and their ``share``."""

    label: str
    taken_for: str
    images: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy by number of training images, and what twice as many would bring.

    The error is taken to fall with a power of the number (Hestness et al. 2017, arXiv 1712.00409).

    Attributes:
        images: how many were trained on.
        accuracy: measured with each number.
        twice: the accuracy expected with twice as many as the last.
        interval: its 95% interval by resampling the images; that the error goes on falling as it
            did is assumed.
        halved: how many images would halve the error; ``None`` if more than ten times as many.
    """

    images: tuple[int, ...]
    accuracy: tuple[float, ...]
    twice: float
    interval: tuple[float, float]
    halved: int | None

    def in_words(self) -> str:
        """Return the curve in one line."""
        measured = ", ".join(
            f"{accuracy:.1%} with {images:,}"
            for images, accuracy in zip(self.images, self.accuracy, strict=True)
        )
        low, high = self.interval
        more = "" if self.halved is None else f"; half the errors: about {self.halved:,} images"
        return (
            f"training images: {measured}; expected with {2 * self.images[-1]:,}: "
            f"{self.twice:.1%} ({low:.1%} to {high:.1%}){more}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCheck:
    """What a classifier says about images it was not trained on.

    Attributes:
        probabilities: float64 (N, classes), calibrated.
        wrong: float64 (N,), the probability that the label is wrong.
        predicted: int64 (N,), the likeliest class.
        suggested: int64 (N,), the likeliest class other than the label.
        curve: what more images would bring; ``None`` if some class has too few.
    """

    probabilities: Probabilities
    wrong: NDArray[np.float64]
    predicted: Integers
    suggested: Integers
    curve: Curve | None


def assign_folds(labels: Integers, groups: Integers, *, folds: int) -> Integers:
    """Return the fold of each image, (N,): every class evenly, a group in one fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    assigned = np.zeros(len(labels), np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for fold, (_, answered) in enumerate(splitter.split(labels, labels, groups)):
        assigned[answered] = fold
    return assigned


def confusions(labels: Integers, predicted: Integers, names: tuple[str, ...]) -> list[Confusion]:
    """Return which classes are taken for which others, the most frequent first."""
    sizes = np.bincount(labels, minlength=len(names))
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    found = [
        Confusion(
            label=names[true], taken_for=names[guess], images=images, share=images / sizes[true]
        )
        for (true, guess), images in zip(pairs.T.tolist(), counts.tolist(), strict=True)
        if true != guess and images >= _FEWEST
    ]
    return sorted(found, key=lambda each: (-each.images, each.label, each.taken_for))


def extrapolate(right: NDArray[np.bool_], images: tuple[int, ...]) -> Curve:
    """Return the curve of answers, bool (numbers of training images, N): right or not."""
    count = right.shape[1]
    # Resampling images is resampling the few ways in which they can be right or wrong.
    ways, images_each = np.unique(right, axis=1, return_counts=True)
    weights = np.random.default_rng(0).multinomial(count, images_each / count, size=_RESAMPLINGS)
    errors = np.concatenate([(~right).mean(axis=1)[None], weights @ (~ways).T / count])
    errors = np.maximum(errors, 0.5 / count)  # none at all has no logarithm
    sizes = np.log(images)
    slopes, heights = np.polyfit(sizes, np.log(errors.T), 1)
    then = 1 - np.exp(np.minimum(heights + slopes * (sizes[-1] + np.log(2)), 0))
    low, high = np.quantile(then[1:], (0.025, 0.975))
    slope = float(slopes[0])
    # Beyond ten times as many the power is a guess.
    halved = round(images[-1] * 2 ** (-1 / slope)) if slope <= -np.log10(2) else None
    return Curve(
        images=images,
        accuracy=tuple(right.mean(axis=1).tolist()),
        twice=float(then[0]),
        interval=(float(low), float(high)),
        halved=halved,
    )


def check_labels(
    fit: Fit, labels: Integers, groups: Integers, *, classes: int, thorough: bool = True
) -> LabelCheck:
    """Return what classifiers fitted to other images say about each label.

    Args:
        fit: fits a classifier.
        labels: int64 (N,), below ``classes``, each with two images at least.
        groups: int64 (N,); images of one group are never on both sides.
        classes: how many there are.
        thorough: whether classifiers are fitted again without the images whose labels are likely
            wrong, and to parts of the others, for the curve.
    """
    count = (_FOLDS_OF_FEW if len(labels) <= _FEW else _FOLDS) if thorough else _FOLDS_IF_SLOW
    folds = assign_folds(labels, groups, folds=min(count, int(np.bincount(labels).min())))
    every = np.ones(len(labels), np.bool_)
    probabilities, wrong = judge(_out_of_fold(fit, labels, folds, every, classes), labels)
    curve = None
    if thorough:
        kept = wrong <= 0.5  # wrong labels also teach
        parts = [_some_of_each(labels, part) & kept for part in _PARTS] + [kept]
        answers = [_out_of_fold(fit, labels, folds, part, classes) for part in parts]
        probabilities, wrong = judge(answers[-1], labels)
        right = np.stack([each.argmax(axis=1) == labels for each in answers])
        trained = len(labels) * folds.max() / (folds.max() + 1)
        curve = extrapolate(right, tuple(round(part * trained) for part in (*_PARTS, 1.0)))
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1
    return LabelCheck(
        probabilities=probabilities,
        wrong=wrong,
        predicted=probabilities.argmax(axis=1),
        suggested=others.argmax(axis=1),
        curve=curve,
    )


def _out_of_fold(
    fit: Fit, labels: Integers, folds: Integers, kept: NDArray[np.bool_], classes: int
) -> Probabilities:
    """Return log-probabilities (N, classes) by classifiers fitted to ``kept`` of other folds."""
    found = np.empty((len(labels), classes))
    for fold in range(int(folds.max()) + 1):
        answered = np.flatnonzero(folds == fold)
        found[answered] = fit(np.flatnonzero((folds != fold) & kept), answered)
    return found


def _some_of_each(labels: Integers, part: float) -> NDArray[np.bool_]:
    """Return ``part`` of the images of each class, bool (N,), at least two."""
    random = np.random.default_rng(0)
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        own = random.permutation(np.flatnonzero(labels == label))
        chosen[own[: max(2, round(part * len(own)))]] = True
    return chosen


def likely_wrong(wrong: NDArray[np.float64]) -> Integers:
    """Return the images whose labels are wrong with a probability above 0.4, the surest first.

    Most are far above it: of such a list about five of six are expected to be wrong.
    """
    order = np.argsort(-wrong, kind="stable")
    named: Integers = order[wrong[order] > _LIKELY]
    return named


def judge(answers: Probabilities, labels: Integers) -> tuple[Probabilities, NDArray[np.float64]]:
    """Return honest probabilities, (N, classes), and how likely each label is wrong, (N,).

    ``answers`` are log-probabilities of images that the classifier has not seen.
    """
    from scipy.optimize import minimize

    def unlikely(values: NDArray[np.float64]) -> float:
        own = _softmax(answers * np.exp(values[0]))[np.arange(len(labels)), labels]
        share = 1 / (1 + np.exp(-values[1]))
        known = _WRONG_BEFORE * np.log(share) + _RIGHT_BEFORE * np.log(1 - share)
        return -float(np.log(_likelihood(own, share, answers.shape[1]).sum(axis=0)).sum() + known)

    sharpness, odds = minimize(unlikely, (0.0, -3.0), method="Nelder-Mead").x
    probabilities = _softmax(answers * np.exp(sharpness))
    own = probabilities[np.arange(len(labels)), labels]
    right, wrong = _likelihood(own, 1 / (1 + np.exp(-odds)), answers.shape[1])
    return probabilities, np.asarray(wrong / (right + wrong), np.float64)


def _likelihood(own: NDArray[np.float64], share: float, classes: int) -> NDArray[np.float64]:
    """Return how likely the labels are right and there, and wrong and there, (2, N)."""
    least = np.finfo(np.float64).tiny
    return np.stack([(1 - share) * own + least, share * (1 - own) / (classes - 1)])


def _softmax(answers: Probabilities) -> Probabilities:
    powers = np.exp(answers - answers.max(axis=1, keepdims=True))
    shares: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return shares

"""What changed between a checkpoint's answers and an artifact's, over all images and per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import Labels
from mobilette.model.classes import ClassLabel
from mobilette.run.metrics import right_answers
from mobilette.verification.statistics import holm, paired_test

# Below it a class counts as worse, over all classes together.
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Change:
    """Right answers of two sides to the same images.

    Attributes:
        lost: images that only the checkpoint answers right.
        won: images that only the artifact answers right.
        p_value: of the exact paired test (McNemar's, two-sided) that both are equally likely.
    """

    lost: int
    won: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class ClassChange(Change):
    """What changed for the images of one class.

    Attributes:
        id: the class.
        name: what it is called.
        images: how many images it has; where an image may have several classes, all images, and an
            answer is right that says yes (logit above 0) or no as the label does.
        accuracy_source: the checkpoint's part of right answers, 0 to 1.
        accuracy_artifact: the artifact's.
        p_adjusted: ``p_value`` corrected for the number of classes (Holm).
        worse: whether more are lost than won and ``p_adjusted`` is at most 0.05: among classes
            that did not change, one is called worse in at most 5% of comparisons.
    """

    id: str
    name: str
    images: int
    accuracy_source: float
    accuracy_artifact: float
    p_adjusted: float
    worse: bool


def changed(checkpoint: NDArray[np.bool_], artifact: NDArray[np.bool_]) -> Change:
    """Return what changed between right answers, both bool (N,)."""
    lost, won = int((checkpoint & ~artifact).sum()), int((artifact & ~checkpoint).sum())
    return Change(lost=lost, won=won, p_value=paired_test(lost, won))


def changes_by_class(
    checkpoint: NDArray[np.float32],
    artifact: NDArray[np.float32],
    labels: Labels,
    classes: Sequence[ClassLabel],
) -> tuple[ClassChange, ...]:
    """Return what changed for every class that occurs in ``labels``; logits are (N, classes)."""
    before, after = (_right_by_class(logits, labels) for logits in (checkpoint, artifact))
    found = {index: changed(before[index], after[index]) for index in before}
    adjusted = dict(zip(found, holm([each.p_value for each in found.values()]), strict=True))
    return tuple(
        ClassChange(
            id=classes[index].id,
            name=classes[index].name,
            images=len(before[index]),
            accuracy_source=float(before[index].mean()),
            accuracy_artifact=float(after[index].mean()),
            lost=each.lost,
            won=each.won,
            p_value=each.p_value,
            p_adjusted=adjusted[index],
            worse=each.lost > each.won and adjusted[index] <= SIGNIFICANT,
        )
        for index, each in found.items()
    )


def _right_by_class(logits: NDArray[np.float32], labels: Labels) -> dict[int, NDArray[np.bool_]]:
    """Return which answers are right, by the classes that occur; for multi-label, yes or no."""
    if labels.ndim == 1:
        right = right_answers(logits, labels)
        return {index: right[labels == index] for index in np.unique(labels).tolist()}
    finite, applies = np.isfinite(logits).all(axis=1), labels == 1
    return {
        index: finite & ((logits[:, index] > 0) == applies[:, index])
        for index in np.flatnonzero(applies.any(axis=0)).tolist()
    }

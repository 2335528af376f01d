"""The labels of a set, checked by what looks at its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import ImageSet, LabelledImage
from mobilette.progress import Remark
from mobilette.verification.labels import Confusion, LabelCheck, check_labels, confusions
from mobilette.workflows.audit_network import Examiner

_FEWEST = 3  # images of a class whose labels are checked
_NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedLabels:
    """The labels of the classes that have enough images.

    Attributes:
        classes: these classes.
        rows: int64 (N,), which of the usable images.
        labels: int64 (N,), their indices in ``classes``.
        found: what was found about them.
    """

    classes: tuple[str, ...]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    found: LabelCheck

    @cached_property
    def accuracy(self) -> float:
        """The fraction of answers that are as labelled."""
        return float((self.found.predicted == self.labels).mean())

    @cached_property
    def recall(self) -> dict[str, float]:
        """The same for each class."""
        right = self.found.predicted == self.labels
        return {
            name: float(right[self.labels == number].mean())
            for number, name in enumerate(self.classes)
        }

    @cached_property
    def confusions(self) -> tuple[Confusion, ...]:
        """Classes taken for others, the most frequent first."""
        return tuple(confusions(self.labels, self.found.predicted, self.classes))


def checked_labels(
    images: ImageSet,
    usable: Sequence[LabelledImage],
    look: Examiner,
    described: NDArray[np.float32],
    groups: NDArray[np.int64],
    remark: Remark,
) -> CheckedLabels | None:
    """Return the checked labels; ``None``, with a remark, if there are none to check.

    Args:
        images: the set.
        usable: its usable images.
        look: what looked at them.
        described: what it said of each.
        groups: of each; images of one group are never on both sides.
        remark: called with what is not checked.
    """
    if images.multi_label:
        remark("labels are not checked: an image may have several")
        return None
    given = np.array([image.label for image in usable], np.int64)
    counts = np.bincount(given, minlength=len(images.classes))
    enough = np.flatnonzero(counts >= _FEWEST)
    few = [images.classes[index] for index in np.flatnonzero(counts < _FEWEST)]
    if few:
        remark(
            f"labels of {', '.join(few[:_NAMED])}{', ...' * (len(few) > _NAMED)} are not checked: "
            f"fewer than {_FEWEST} images"
        )
    if len(enough) < 2:
        return None
    rows = np.flatnonzero(np.isin(given, enough))
    labels = np.searchsorted(enough, given[rows])
    chosen = [usable[row] for row in rows.tolist()]
    return CheckedLabels(
        classes=tuple(images.classes[index] for index in enough.tolist()),
        rows=rows,
        labels=labels,
        found=check_labels(
            look.fitting(described[rows], chosen, labels),
            labels,
            groups[rows],
            classes=len(enough),
            thorough=look.quick,
        ),
    )

"""Labels: the class of an image, or the classes of an image of a multi-label set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# An index into the classes or, in a multi-label set, the ascending indices of none, one or several.
Label = int | tuple[int, ...]
# int64 of shape (N,) or, of a multi-label set, uint8 of shape (N, classes), 1 where it applies.
Labels = NDArray[np.int64] | NDArray[np.uint8]


def label_array(labels: Sequence[Label], *, num_classes: int) -> Labels:
    """Return ``labels`` as an array: int64 (N,), or uint8 (N, num_classes) of 0 and 1.

    The second where they are tuples.
    """
    if not any(isinstance(label, tuple) for label in labels):
        return np.array(labels, np.int64)
    applies = np.zeros((len(labels), num_classes), np.uint8)
    for row, label in zip(applies, labels, strict=True):
        row[list(indices_of(label))] = 1
    return applies


def indices_of(label: Label) -> tuple[int, ...]:
    """Return the classes that ``label`` names, ascending."""
    return label if isinstance(label, tuple) else (label,)


def count_labels(labels: Labels, *, num_classes: int) -> list[int]:
    """Return how many images each class has in an array of `label_array`."""
    if labels.ndim == 2:
        return [int(count) for count in labels.sum(axis=0, dtype=np.int64)]
    return [int(count) for count in np.bincount(labels, minlength=num_classes)]

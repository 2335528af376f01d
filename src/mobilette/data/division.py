"""How a set is divided: which images are held out, with everything of a group on one side."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mobilette.data.images import SPLITS, ImageSet, Label, LabelledImage, indices_of
from mobilette.errors import InputError, shown
from mobilette.limits import FOLDS, HOLDOUT, Range
from mobilette.records import Ranged

FIFTH = Fraction(1, 5)
# Parts are fractions with denominators up to these: of classes, and of groups, which are folds.
_FINE, _COARSE = 10_000, 20


@dataclass(frozen=True, kw_only=True)
class Division(Ranged):
    """What a run asked for when its set was divided.

    Attributes:
        holdout: the fraction of the images in ``test``; 0 without such a part.
        groups: which images belong together, as for `mobilette.data.groups.with_groups`.
        folds: number of folds, if this is one of them; its ``test`` is the fold.
        fold: which of them, from 1.
    """

    holdout: Annotated[float, HOLDOUT] | None = None
    groups: str | None = None
    folds: Annotated[int, FOLDS] | None = None
    fold: Annotated[int, Range(1, 100)] = 1

    @property
    def test(self) -> tuple[Fraction, int] | None:
        """The fraction of the images in ``test`` and which one, from 0; ``None`` without."""
        if self.folds is not None:
            return Fraction(1, self.folds), self.fold - 1
        if self.holdout is not None:
            return Fraction(self.holdout).limit_denominator(_FINE), 0
        return None


WHOLE = Division()


def as_holdout(value: float | str | None) -> float | None:
    """Return the fraction written ``0.2`` or ``"20%"``; `InputError` if it is none in range."""
    if value is None:
        return None
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(%?)", value.strip(), re.ASCII)
        if match is None:
            raise InputError(f"--holdout {shown(value)} is not a part such as 20% or 0.2")
        value = float(match[1]) / (100 if match[2] else 1)
    HOLDOUT.check("--holdout", value)
    return float(value)


def merged(images: ImageSet, division: Division) -> ImageSet:
    """Return the set to divide: for folds ``train`` and ``val`` together, without a given ``test``.

    Raises:
        InputError: a part is asked for, and the set has ``test``.
    """
    if division.folds is None:
        if division.holdout is not None and "test" in images.splits:
            raise InputError(f"{images.name}: has a test split; --holdout would cut another")
        return images
    rest = [some for split, some in images.splits.items() if split != "test"]
    return replace(images, splits={"all": tuple(image for some in rest for image in some)})


def hold_out(
    *,
    labels: Sequence[Label],
    digests: Sequence[str],
    names: Sequence[str],
    part: Fraction = FIFTH,
    index: int = 0,
    groups: Sequence[int] | None = None,
    alike: Sequence[int] | None = None,
) -> NDArray[np.bool_]:
    """Choose the held-out images of a flat set, bool (N,).

    Per class, the images are sorted by the SHA-256 of their decoded pixels, and of n the first
    ⌈n · part⌉ are held out, or with ``index`` the next ones; a multi-label set counts as one class.
    ``names`` only breaks ties between copies of an image. With ``groups``, a number per image, all
    images of a group are on one side: `StratifiedGroupKFold` of scikit-learn divides them, in the
    same order. Those that are ``alike``, by such numbers, go where the rule puts most of them.
    """
    order = sorted(range(len(labels)), key=lambda row: (digests[row], names[row]))
    classes = [-1 if isinstance(labels[row], tuple) else labels[row] for row in order]
    if groups is not None:
        chosen = _whole_groups(classes, [groups[row] for row in order], part, index)
    else:
        kin = None if alike is None else [alike[row] for row in order]
        chosen = _first_of_each(classes, kin, part, index)
    held_out = np.zeros(len(labels), np.bool_)
    held_out[np.array(order, np.int64)[chosen]] = True
    return held_out


def _first_of_each(
    classes: Sequence[Any], alike: Sequence[int] | None, part: Fraction, index: int
) -> list[int]:
    sizes, seen = Counter(classes), Counter[Any]()
    folds = []  # each is 1 / denominator of its class
    for label in classes:
        folds.append(seen[label] * part.denominator // sizes[label])
        seen[label] += 1
    if alike is not None:
        votes: dict[int, Counter[int]] = defaultdict(Counter)
        for fold, group in zip(folds, alike, strict=True):
            votes[group][fold] += 1
        most = {
            group: max(count, key=lambda fold: (count[fold], fold))
            for group, count in votes.items()
        }
        folds = [most[group] for group in alike]
    first = index * part.numerator
    return [place for place, fold in enumerate(folds) if first <= fold < first + part.numerator]


def _whole_groups(
    classes: Sequence[Any], groups: Sequence[int], part: Fraction, index: int
) -> list[int]:
    from sklearn.model_selection import StratifiedGroupKFold  # takes 1.8 s to import

    coarse = part.limit_denominator(_COARSE)
    numbers: dict[int, int] = {}
    renumbered = [numbers.setdefault(group, len(numbers)) for group in groups]
    folds = min(coarse.denominator, len(numbers), max(Counter(classes).values()))
    if folds < 2:
        return []
    if folds < coarse.denominator:
        coarse = Fraction(max(1, round(part * folds)), folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class with fewer images than folds
        cut = StratifiedGroupKFold(n_splits=folds).split(
            np.zeros(len(classes)), np.array(classes), np.array(renumbered)
        )
        held = [test.tolist() for _, test in cut]
    count = coarse.numerator * folds // coarse.denominator
    return sorted(place for test in held[index * count : (index + 1) * count] for place in test)


SEEN = "the weights to start from were trained on them"


def check_division(
    images: ImageSet,
    chosen: Sequence[LabelledImage],
    assigned: Sequence[str],
    division: Division,
    *,
    moved: bool = False,
) -> None:
    """Raise `InputError` if a class or a split of a divided set has too few images."""
    counts = {split: Counter[int]() for split in SPLITS}
    for image, split in zip(chosen, assigned, strict=True):
        counts[split].update(indices_of(image.label))
    parts = [split for split in ("val", "test") if counts[split]]
    for label, class_id in enumerate(images.classes):
        of = {split: counts[split][label] for split in SPLITS}
        # The rule may hold out every image of a rare class in a multi-label set.
        if of["train"] or (images.multi_label and sum(of.values())):
            continue
        raise InputError(_too_few(images, class_id, of, division, parts))
    for split in images.splits:
        if split != "all" and split not in assigned and not moved:
            raise InputError(f"{images.name}: the split {split!r} has no usable image")
    for split in ("val", *(["test"] if division.test is not None else [])):
        if not counts[split]:
            raise InputError(
                f"{images.name}: no image is left for {split}: {SEEN}, or all belong with others; "
                "give more (or, to prune, --include-trained)"
            )


def _too_few(
    images: ImageSet, class_id: str, of: dict[str, int], division: Division, parts: list[str]
) -> str:
    said, count = f"{images.name}: the class {class_id!r} has", sum(of.values())
    if not count or not (division.test or "all" in images.splits):
        return f"{said} no usable image to train on"
    if division.groups is not None and count > len(parts):
        return (
            f"{said} all of its {count:,} images in {len(parts)} groups or fewer; more are needed"
        )
    if division.test is None:
        return f"{said} one usable image; two are needed, one to train on and one held out"
    if count > len(parts):
        return f"{said} {count} usable images, all of them held out; hold out a smaller part"
    return (
        f"{said} {count} usable image{'s' * (count > 1)}; three are needed, one to train on, one "
        "for val and one for test"
    )

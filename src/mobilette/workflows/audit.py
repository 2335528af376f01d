"""`audit`: what is wrong with a set of images, before or after a network is trained on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mobilette.arch.scale import Resolution
from mobilette.arguments import checked
from mobilette.data.duplicates import EXACT, Pair, duplicate_pairs, joined
from mobilette.data.findings import KINDS, Finding, What, digest_of
from mobilette.data.images import ImageSet, LabelledImage, count_labels, indices_of, label_array
from mobilette.data.looks import odd_looks
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.data.survey import Survey, survey
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.verification.labels import likely_wrong
from mobilette.workflows.audit_labels import CheckedLabels, checked_labels
from mobilette.workflows.audit_network import ExaminerChoice, examiner


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What was found in a set of images.

    Attributes:
        images: the set.
        counts: images of each class, by split.
        sizes: smallest, median and largest (width, height).
        findings: what was found, kind after kind, the surest first.
        network: what looked at the images.
        labels: the labels that were checked, if any.
        seconds: how long it took.
    """

    images: ImageSet = field(repr=False)
    counts: Mapping[str, Mapping[str, int]]
    sizes: tuple[tuple[int, int], ...]
    findings: tuple[Finding, ...] = field(repr=False)
    network: str
    labels: CheckedLabels | None = field(repr=False)
    seconds: float

    def of_kind(self, what: str) -> list[Finding]:
        """Return the findings of one kind."""
        return [finding for finding in self.findings if finding.what == what]

    def summary(self) -> list[str]:
        """Return the audit in a few lines."""
        each = {split: sum(counts.values()) for split, counts in self.counts.items()}
        parts = ", ".join(f"{count:,} in {split}" for split, count in each.items())
        smallest, median, largest = ("x".join(map(str, size)) for size in self.sizes)
        found = ", ".join(f"{len(some):,} {what}" for what in KINDS if (some := self.of_kind(what)))
        lines = [
            f"{sum(each.values()):,} images of {len(self.images.classes)} classes ({parts}); "
            f"{smallest} to {largest} pixels, median {median}",
            f"found: {found or 'nothing'}",
        ]
        if self.labels is not None:
            lines.append(
                f"{self.labels.accuracy:.1%} of the labels agree with the answers of {self.network}"
            )
            if self.labels.found.curve is not None:
                lines.append(self.labels.found.curve.in_words())
        return lines

    def to_json(self) -> dict[str, object]:
        """Return the audit as JSON values."""
        labels = self.labels
        curve = None if labels is None else labels.found.curve
        return {
            "source": self.images.name,
            "classes": list(self.images.classes),
            "counts": {split: dict(counts) for split, counts in self.counts.items()},
            "sizes": [list(size) for size in self.sizes],
            "network": self.network,
            "accuracy": None if labels is None else labels.accuracy,
            "recall": {} if labels is None else labels.recall,
            "confusions": [] if labels is None else [asdict(each) for each in labels.confusions],
            "curve": None if curve is None else asdict(curve),
            "findings": [each.to_json() for each in self.findings],
            "seconds": self.seconds,
        }


@checked
def audit(
    data: str | Path,
    *,
    run: str | Path | Run | None = None,
    start: str | Path | Model = "auto",
    model: str | None = None,
    width_mult: float | None = None,
    resolution: Resolution | None = None,
    preprocess: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> Audit:
    """Return what is wrong with a set of images: duplicates, wrong labels, odd images.

    Args:
        data: images as for `mobilette.train`.
        run: a run whose network, preprocessing and features are used.
        start: else weights to use, as for `mobilette.train`: ``auto``, a file, a run or a name;
            ``scratch`` trains a small network for the audit.
        model: the network of ``start``, as for `mobilette.train`.
        width_mult: its width multiplier.
        resolution: a side or (height, width); by default one that suits the images.
        preprocess: preset of mean and std for a file that does not state them.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: decoding processes; by default one per core.
        reporter: receives the progress of reading and downloads, and remarks.

    Raises:
        InputError: the set cannot be found, has one class or no usable image, the run has other
            classes, or the weights cannot be used.
    """
    begin = time.perf_counter()
    images = find_images(data)
    for line in images.remarks:
        reporter.remark(line)
    choice = ExaminerChoice(run, start, model, width_mult, resolution, preprocess, device)
    look = examiner(images, choice, reporter)
    rows = [_Row(images, split, image) for split, some in images.splits.items() for image in some]
    seen = survey(
        [row.image for row in rows],
        look.describe,
        resolution=look.resolution,
        preprocess=look.preprocess,
        reading=Reading(workers=workers, max_unusable=1.0),
        reporter=reporter,
    )
    if not len(seen.positions):
        raise InputError(f"{images.name}: none of its {len(rows):,} images can be read")
    usable = [rows[position] for position in seen.positions.tolist()]
    pairs = duplicate_pairs(seen.looks["thumbnail"], seen.digests, mirrored=images.flippable)
    labels = checked_labels(
        images,
        [row.image for row in usable],
        look,
        seen.described,
        joined(((pair.first, pair.second) for pair in pairs), count=len(usable)),
        reporter.remark,
    )
    found = [
        *_unreadable(images, rows, seen),
        *_duplicates(usable, pairs),
        *_wrong(usable, labels),
        *_odd(usable, seen),
    ]
    order = {what: number for number, what in enumerate(KINDS)}
    found.sort(key=lambda each: (order[each.what], -each.sure, each.path))
    return Audit(
        images=images,
        counts=_counts(images),
        sizes=_sizes(seen),
        findings=tuple(found),
        network=look.name,
        labels=labels,
        seconds=time.perf_counter() - begin,
    )


@dataclass(frozen=True)
class _Row:
    """An image of a set, and its split."""

    images: ImageSet
    split: str
    image: LabelledImage

    @property
    def label(self) -> str:
        return ";".join(self.images.classes[index] for index in indices_of(self.image.label))

    def finding(
        self,
        what: What,
        sure: float,
        *,
        other: str = "",
        suggestion: str = "",
        detail: str = "",
    ) -> Finding:
        return Finding(
            path=self.image.name,
            split=self.split,
            label=self.label,
            what=what,
            sure=sure,
            other=other,
            suggestion=suggestion,
            detail=detail,
            digest=digest_of(self.image),
        )


def _unreadable(images: ImageSet, rows: Sequence[_Row], seen: Survey) -> Iterator[Finding]:
    for position, reason in sorted(seen.unusable.items()):
        yield rows[position].finding("unreadable", 1.0, detail=reason)
    for name, reason in images.unusable:
        yield Finding(path=name, split="", label="", what="unreadable", sure=1.0, detail=reason)


def _duplicates(usable: Sequence[_Row], pairs: Sequence[Pair]) -> Iterator[Finding]:
    for pair in pairs:
        kept, extra = usable[pair.first], usable[pair.second]
        notes: list[str] = [] if pair.kind == EXACT else [pair.kind]
        if kept.split != extra.split:
            notes.append(f"the other is in {kept.split}")
        if kept.label != extra.label:
            notes.append(f"the other is of class {kept.label}")
        what: What = "exact duplicate" if pair.kind == EXACT else "near duplicate"
        detail = "; ".join(notes)
        yield extra.finding(what, pair.score, other=kept.image.name, detail=detail)


def _wrong(usable: Sequence[_Row], labels: CheckedLabels | None) -> Iterator[Finding]:
    if labels is None:
        return
    found = labels.found
    for place in likely_wrong(found.wrong).tolist():
        suggestion = labels.classes[int(found.suggested[place])]
        likely = found.probabilities[place, found.suggested[place]]
        own = found.probabilities[place, labels.labels[place]]
        yield usable[int(labels.rows[place])].finding(
            "wrong label",
            float(found.wrong[place]),
            suggestion=suggestion,
            detail=f"{likely:.0%} {suggestion}, {own:.1%} as labelled",
        )


def _odd(usable: Sequence[_Row], seen: Survey) -> Iterator[Finding]:
    for odd in odd_looks(seen.looks):
        yield usable[odd.index].finding(odd.what, odd.sure, detail=odd.detail)


def _counts(images: ImageSet) -> dict[str, dict[str, int]]:
    found = {}
    for split, some in images.splits.items():
        labels = label_array([image.label for image in some], num_classes=len(images.classes))
        counts = count_labels(labels, num_classes=len(images.classes))
        found[split] = dict(zip(images.classes, counts, strict=True))
    return found


def _sizes(seen: Survey) -> tuple[tuple[int, int], ...]:
    """Return the smallest, the median and the largest size, by area."""
    sizes = sorted(
        zip(seen.looks["width"].tolist(), seen.looks["height"].tolist(), strict=True),
        key=lambda size: (size[0] * size[1], size),
    )
    return sizes[0], sizes[len(sizes) // 2], sizes[-1]

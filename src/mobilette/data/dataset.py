"""Read or stream a set of images, split it and compute its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mobilette.arch.scale import Resolution
from mobilette.data.digests import NONE, Digests
from mobilette.data.images import Digest, ImageSet, LabelledImage, count_labels, indices_of
from mobilette.data.opening import FoundRows, LoaderKind, find_rows
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import IN_THIS_PROCESS, Reading, read_images
from mobilette.data.splits import (
    Copies,
    Split,
    assign,
    divide,
    find_copies,
    make_split,
    without_seen,
)
from mobilette.data.store import ImageStore
from mobilette.errors import InputError
from mobilette.progress import SILENT, Reporter

SCHEMA_VERSION = 1
_BY_RULE = "per class, first fifth by SHA-256 of decoded pixels"
_BY_RULE_MULTI_LABEL = "first fifth by SHA-256 of decoded pixels"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A set of images, divided into splits.

    Attributes:
        classes: class ids in label order.
        splits: ``"train"``, ``"val"`` and, where the set has one, ``"test"``.
        left_out: name and reason of every unusable image found while reading the set.
        ignored: number of files that are not images or belong to no class.
        fingerprint: SHA-256, in hex, over the split, class and digest of every image. It depends on
            neither the resolution nor, except with ``"names and sizes"``, the names.
        digest: what identifies an image, orders a split and finds duplicates: the SHA-256 of its
            ``"decoded pixels"`` or of ``"files"``, or ``"names and sizes"`` where no image is read
            in advance.
        copies: images in several splits or classes; ``None`` where unknown, in a streamed set.
        flippable: whether a mirrored image means the same.
        source: the set as the user named it.
        remarks: how folders were understood where that is not obvious.
        split_rule: how the set was divided, in words.
        store: where streamed pixels come from.
        content: the images by split; ``None`` where they are only known once they are read.
        parts: the splits that were cut from a larger one, as ``"val"`` is from a flat set.
        moved: those that would have been held out, had no earlier run been trained on them.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    left_out: tuple[tuple[str, str], ...]
    ignored: int
    fingerprint: str
    digest: Digest
    copies: Copies | None
    flippable: bool
    source: str
    split_rule: str
    remarks: tuple[str, ...] = ()
    store: ImageStore | None = None
    content: Mapping[str, Digests] | None = None
    parts: tuple[str, ...] = ()
    moved: Digests = NONE

    @property
    def unusable(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of every image left out so far."""
        return self.left_out + (() if self.store is None else self.store.unusable())

    def close(self) -> None:
        """End the threads and processes that decode streamed images."""
        if self.store is not None:
            self.store.close()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have no class or several."""
        return any(split.labels.ndim == 2 for split in self.splits.values())

    def describe(self) -> dict[str, object]:
        """Return the content of ``dataset.json``."""
        counts = {
            name: {
                "pictures": len(split.names),
                "per_class": dict(
                    zip(
                        self.classes,
                        count_labels(split.labels, num_classes=len(self.classes)),
                        strict=True,
                    )
                ),
            }
            for name, split in self.splits.items()
        }
        description: dict[str, object] = {
            "schema": SCHEMA_VERSION,
            "source": self.source,
            "classes": list(self.classes),
            "splits": counts,
            "split_rule": self.split_rule,
            "fingerprint": self.fingerprint,
            "digest": self.digest,
            "loader": "resident" if self.store is None else "streamed",
            "duplicates": None
            if self.copies is None
            else sum(map(len, self.copies.in_train.values())),
            "copies": None if self.copies is None else asdict(self.copies),
            "remarks": list(self.remarks),
            "unusable": [{"path": name, "reason": reason} for name, reason in self.unusable],
            "ignored": self.ignored,
        }
        if self.multi_label:
            description["multi_label"] = True
        if self.split_rule in (_BY_RULE, _BY_RULE_MULTI_LABEL):
            description["val_names"] = list(self.splits["val"].names)
        return description


def load_dataset(
    images: ImageSet,
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    reading: Reading = IN_THIS_PROCESS,
    reporter: Reporter = SILENT,
    loader: LoaderKind = "auto",
    digest: Digest | None = None,
    device_memory: int | None = None,
    processes: int = 1,
    seen: Digests = NONE,
) -> Dataset:
    """Read a set of images, or prepare to stream it, and split it if it is flat.

    A ``resident`` set is decoded once and kept in memory. A streamed set is decoded batch by batch;
    only a flat one is decoded in advance, since its split depends on the pixels. In a divided set,
    training JPEGs are decoded at reduced scale where that suffices
    (`mobilette.data.decoding.decode_reduced`), all other images exactly. The result does not depend
    on ``reading.workers``.

    Args:
        images: the set.
        resolution: of the result, in pixels.
        preprocess: how to resize; mean and std are not applied.
        reading: ``max_unusable`` also holds during the run.
        reporter: receives progress and remarks.
        loader: ``auto`` streams what does not fit in memory.
        digest: `Dataset.digest` of the run being resumed (``"decoded pixels"`` where it records
            none); ``None`` chooses.
        device_memory: free bytes of a GPU that must also hold resident images.
        processes: how many processes on this machine will each hold the images in memory.
        seen: images that an earlier run was trained on, and that are therefore not held out.

    Raises:
        InputError: the images do not fit in memory, too many are unusable, or a class or split is
            empty.
    """
    found = find_rows(
        images,
        resolution=resolution,
        preprocess=preprocess,
        reading=reading,
        reporter=reporter,
        loader=loader,
        digest=digest,
        device_memory=device_memory,
        processes=processes,
    )
    streamed = found.pixels is None
    divided = without_seen(found, assign(found), seen)
    found, assigned = divided.found, divided.splits
    if len(divided.moved):
        reporter.remark(_moved(images, assigned, len(divided.moved)))
    _check_classes(images, found.images, assigned)
    copies = find_copies(found, assigned)
    for line in copies.remarks() if copies is not None else ():
        reporter.remark(line)
    rule = _BY_RULE_MULTI_LABEL if images.multi_label else _BY_RULE
    return Dataset(
        classes=images.classes,
        splits=divide(found, assigned, num_classes=len(images.classes)),
        left_out=images.unusable + (() if streamed else found.store.unusable()),
        ignored=len(images.ignored),
        fingerprint=_fingerprint(
            (split, ";".join(images.classes[i] for i in indices_of(image.label)), digest)
            for split, image, digest in zip(assigned, found.images, found.digests, strict=True)
        ),
        digest=found.digest,
        copies=copies,
        flippable=images.flippable,
        source=images.name,
        split_rule=rule if "all" in images.splits else images.divided_by,
        remarks=images.remarks,
        store=found.store if streamed else None,
        content=_content(found, assigned),
        parts=tuple(
            name
            for name in ("val", "test")
            if (name, "all") in set(zip(assigned, found.splits, strict=True))
        ),
        moved=divided.moved,
    )


def load_split(
    images: Sequence[LabelledImage],
    *,
    resolution: Resolution,
    preprocess: Preprocess,
    num_classes: int = 0,
    reading: Reading = IN_THIS_PROCESS,
    reporter: Reporter = SILENT,
) -> tuple[Split, tuple[tuple[str, str], ...]]:
    """Read images as one split, all of them.

    The arguments are those of `read_images`; ``num_classes`` matters for multi-label images only.

    Returns:
        The split, and name and reason of every image left out.

    Raises:
        InputError: the images do not fit in memory, or too many or all are unusable.
    """
    decoded = read_images(
        images, resolution=resolution, preprocess=preprocess, reading=reading, reporter=reporter
    )
    usable = [images[position] for position in decoded.positions]
    if not usable:
        raise InputError("there is no usable image to read")
    return make_split(decoded.pixels, usable, num_classes=num_classes), decoded.unusable


def _content(found: FoundRows, assigned: Sequence[str]) -> dict[str, Digests] | None:
    if found.digest == "names and sizes":
        return None
    digests: dict[str, list[str]] = {}
    for split, digest in zip(assigned, found.digests, strict=True):
        digests.setdefault(split, []).append(digest)
    return {split: Digests.of(some, found.digest) for split, some in digests.items()}


def _moved(images: ImageSet, assigned: Sequence[str], count: int) -> str:
    """Return the remark on images that are not held out; `InputError` if none are left."""
    if "val" not in assigned:
        raise InputError(
            f"{images.name}: the weights to start from were trained on every image to hold out; "
            "give others in val/ (or, to prune, --include-trained)"
        )
    return (
        f"{count:,} images are not held out, because the weights to start from were trained on them"
    )


def _check_classes(
    images: ImageSet, chosen: Sequence[LabelledImage], assigned: Sequence[str]
) -> None:
    trained, held_out = (
        {
            index
            for image, split in zip(chosen, assigned, strict=True)
            if (split == "train") is train
            for index in indices_of(image.label)
        }
        for train in (True, False)
    )
    for label, class_id in enumerate(images.classes):
        # The rule may hold out every image of a rare class in a multi-label set.
        if label in trained or (images.multi_label and label in held_out):
            continue
        if "all" in images.splits and label in held_out:
            raise InputError(
                f"{images.name}: the class {class_id!r} has one usable image; "
                "two are needed, one to train on and one held out"
            )
        raise InputError(f"{images.name}: the class {class_id!r} has no usable image to train on")
    for split in images.splits:
        if split != "all" and split not in assigned:
            raise InputError(f"{images.name}: the split {split!r} has no usable image")


def _fingerprint(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = sorted("\0".join(row) for row in rows)  # folder names contain no zero byte
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

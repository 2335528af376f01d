"""A set of images becomes rows of pixels: read or streamed, divided and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mobilette.data.images import Digest, ImageSet, LabelledImage, count_labels, indices_of
from mobilette.data.opening import LoaderKind, find_rows, open_set
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import IN_THIS_PROCESS, Reading, read_images
from mobilette.data.splits import Copies, Split, assign, divide, find_copies, make_split
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
        classes: class ids in the order of the labels.
        splits: ``"train"``, ``"val"`` and, where the set has one, ``"test"``.
        left_out: name and reason of every image that could not be used while the set was read.
        ignored: how many files were no images, or in no class.
        fingerprint: SHA-256, in hex, over the split, class and digest of every image. It
            depends on neither the resolution nor, except with ``"names and sizes"``, the names.
        digest: what identifies an image in the fingerprint, in the order inside a split and when
            duplicates are counted: the SHA-256 of its ``"decoded pixels"`` or of ``"files"``, or
            ``"names and sizes"`` where no image is read in advance.
        copies: images that are in several splits, or in several classes; ``None``
            where that is not known, of a set that is streamed.
        flippable: whether an image means the same seen in a mirror.
        source: the set as it was asked for.
        remarks: how its folders were understood where that is not obvious.
        split_rule: how the set was divided, in words.
        store: where streamed pixels come from.
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

    @property
    def unusable(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of every image that was left out so far."""
        return self.left_out + (() if self.store is None else self.store.unusable())

    def close(self) -> None:
        """End the threads and processes that streamed images are decoded in."""
        if self.store is not None:
            self.store.close()

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of none or of several classes."""
        return any(split.labels.ndim == 2 for split in self.splits.values())

    def describe(self) -> dict[str, object]:
        """Return what ``dataset.json`` records, as a JSON object."""
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
    resolution: int,
    preprocess: Preprocess,
    reading: Reading = IN_THIS_PROCESS,
    reporter: Reporter = SILENT,
    loader: LoaderKind = "auto",
    digest: Digest | None = None,
    device_memory: int | None = None,
    processes: int = 1,
) -> Dataset:
    """Read a set of images, or prepare to stream it, and divide it where it is flat.

    Read (``resident``), every image is decoded once and kept in memory. Streamed, images are
    decoded when their turn comes; only a flat set is decoded at once, since its division depends
    on the pixels. Of a set that comes divided, JPEGs to train on are decoded at reduced scale
    where that is enough (`mobilette.data.decoding.decode_reduced`), all others exactly. The result
    does not depend on ``reading.workers``.

    Args:
        images: what to read.
        resolution: side of the result, in pixels.
        preprocess: how to resize; its mean and std are not applied.
        reading: how; ``max_unusable`` also counts as a run goes on.
        reporter: told how many images are read, and what was found.
        loader: ``auto`` streams what does not fit the memory.
        digest: `Dataset.digest` of the run that is to go on (``"decoded pixels"`` where it tells
            none); ``None`` chooses.
        device_memory: free bytes of a GPU that resident images would have to fit in, too.
        processes: how many on this machine will each hold the images in its memory.

    Raises:
        InputError: the images do not fit the memory, too many are unusable, a class has none
            left to train on, or a split has none left.
    """
    opened = open_set(
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
    found = find_rows(opened, on_progress=reporter.reading)
    chosen = [opened.store.images[position] for position in found.positions]
    assigned = assign(
        [opened.splits[position] for position in found.positions], chosen, found.digests
    )
    _check_classes(images, chosen, assigned)
    copies = find_copies(found, chosen, assigned)
    for line in copies.remarks() if copies is not None else ():
        reporter.remark(line)
    rule = _BY_RULE_MULTI_LABEL if images.multi_label else _BY_RULE
    return Dataset(
        classes=images.classes,
        splits=divide(found, chosen, assigned, num_classes=len(images.classes)),
        left_out=images.unusable + (() if opened.streamed else opened.store.unusable()),
        ignored=len(images.ignored),
        fingerprint=_fingerprint(
            (split, ";".join(images.classes[i] for i in indices_of(image.label)), digest)
            for split, image, digest in zip(assigned, chosen, found.digests, strict=True)
        ),
        digest=opened.digest,
        copies=copies,
        flippable=images.flippable,
        source=images.name,
        split_rule=rule if "all" in images.splits else images.divided_by,
        remarks=images.remarks,
        store=opened.store if opened.streamed else None,
    )


def load_split(
    images: Sequence[LabelledImage],
    *,
    resolution: int,
    preprocess: Preprocess,
    num_classes: int = 0,
    reading: Reading = IN_THIS_PROCESS,
    reporter: Reporter = SILENT,
) -> tuple[Split, tuple[tuple[str, str], ...]]:
    """Read the images of one split, as ``choose_split`` gives them.

    The arguments are those of `read_images`; ``num_classes`` counts for multi-label images.

    Returns:
        The split, and name and reason of every image that was left out.

    Raises:
        InputError: the images do not fit the memory, too many are unusable, or all are.
    """
    decoded = read_images(
        images, resolution=resolution, preprocess=preprocess, reading=reading, reporter=reporter
    )
    usable = [images[position] for position in decoded.positions]
    if not usable:
        raise InputError("there is no usable image to read")
    return make_split(decoded.pixels, usable, num_classes=num_classes), decoded.unusable


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
        # The rule holds out a fifth of all multi-label images, which may be all of a rare class.
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
    lines = sorted("\0".join(row) for row in rows)  # no folder's name contains a zero byte
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

"""Read or stream a set of images, split it and compute its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from mobilette.arch.scale import Resolution
from mobilette.data.alike import alike_across, alike_groups
from mobilette.data.assigning import Assigned, assign, without_seen
from mobilette.data.digests import NEW, NONE, Digests, Trained
from mobilette.data.division import SEEN, WHOLE, Division, check_division, merged
from mobilette.data.fingerprint import fingerprint
from mobilette.data.groups import groups_across
from mobilette.data.images import Digest, ImageSet, LabelledImage, count_labels, indices_of
from mobilette.data.opening import FoundRows, LoaderKind, find_rows
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import IN_THIS_PROCESS, Reading, read_images
from mobilette.data.splits import Copies, Split, divide, find_copies, make_split
from mobilette.data.store import ImageStore
from mobilette.errors import InputError
from mobilette.progress import SILENT, Remark, Reporter

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
        moved: those of a given ``"val"`` or ``"test"`` that are left out, because an earlier run
            was trained on them.
        division: what was asked for when the set was divided.
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
    division: Division = WHOLE

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
        if self.division != WHOLE:
            description["division"] = asdict(self.division)
        for part in self.parts:
            description[f"{part}_names"] = list(self.splits[part].names)
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
    division: Division = WHOLE,
    known: Trained = NEW,
    seen: Digests = NONE,
) -> Dataset:
    """Read a set of images, or prepare to stream it, and split it if it is flat.

    A ``resident`` set is decoded once and kept in memory. A streamed set is decoded batch by batch;
    only one that is divided here is decoded in advance, since that depends on the pixels. In others
    training JPEGs are decoded at reduced scale where that suffices (`decode_reduced`), all other
    images exactly.

    Args:
        images: the set.
        resolution: of the result, in pixels.
        preprocess: how to resize; mean and std are not applied.
        reading: ``max_unusable`` also holds during the run.
        reporter: receives progress and remarks.
        loader: ``auto`` streams what does not fit in memory.
        digest: `Dataset.digest` of the run being resumed; ``None`` chooses.
        device_memory: free bytes of a GPU that must also hold resident images.
        processes: how many processes on this machine will each hold the images in memory.
        division: how to divide it.
        known: how its images were used before, which is kept where the set is divided here.
        seen: what an earlier run was trained on, to be left out of a given ``val`` or ``test``.

    Raises:
        InputError: they do not fit in memory, too many are unusable, or a class or split is empty.
    """
    images = merged(images, division)
    found = find_rows(
        images,
        resolution=resolution,
        preprocess=preprocess,
        reading=reading,
        reporter=reporter,
        loader=loader,
        digest=digest or ("decoded pixels" if division.test is not None else None),
        device_memory=device_memory,
        processes=processes,
    )
    streamed = found.pixels is None
    is_resumed, say = digest is not None, reporter.remark
    divided = _assigned(images, found, division, known, seen, resumed=is_resumed, remark=say)
    found, assigned = divided.found, divided.splits
    copies = _copies(images, divided, resumed=is_resumed, remark=say)
    return Dataset(
        classes=images.classes,
        splits=divide(found, assigned, num_classes=len(images.classes)),
        left_out=images.unusable + (() if streamed else found.store.unusable()),
        ignored=len(images.ignored),
        fingerprint=fingerprint(
            (split, ";".join(images.classes[i] for i in indices_of(image.label)), digest)
            for split, image, digest in zip(assigned, found.images, found.digests, strict=True)
        ),
        digest=found.digest,
        copies=copies,
        flippable=images.flippable,
        source=images.name,
        split_rule=_rule(images),
        division=division,
        remarks=images.remarks,
        store=found.store if streamed else None,
        content=_content(found, assigned),
        parts=_parts(found, assigned),
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


def _rule(images: ImageSet) -> str:
    if "all" not in images.splits:
        return images.divided_by
    return _BY_RULE_MULTI_LABEL if images.multi_label else _BY_RULE


def _parts(found: FoundRows, assigned: Sequence[str]) -> tuple[str, ...]:
    there = set(zip(assigned, found.splits, strict=True))
    return tuple(name for name in ("val", "test") if {(name, "all"), (name, "train")} & there)


def _content(found: FoundRows, assigned: Sequence[str]) -> dict[str, Digests] | None:
    if found.digest == "names and sizes":
        return None
    digests: dict[str, list[str]] = {}
    for split, digest in zip(assigned, found.digests, strict=True):
        digests.setdefault(split, []).append(digest)
    return {
        split: Digests.of(some, found.digest, copies=split != "train")
        for split, some in digests.items()
    }


def _assigned(
    images: ImageSet,
    found: FoundRows,
    division: Division,
    known: Trained,
    seen: Digests,
    *,
    resumed: bool,
    remark: Remark,
) -> Assigned:
    """Return the images that are left with their splits; the arguments are `load_dataset`'s.

    A run that is ``resumed``, maybe of an earlier version, is divided as it was.
    """
    alike = None
    if not resumed:
        alike = partial(alike_groups, mirrored=images.flippable, remark=remark)
    folds = division.folds is not None
    if folds and seen.among(found.images, found.digests, found.digest)[0].any():
        raise InputError(
            f"{images.name}: folds need weights that have seen none of its images; those to start "
            "from were trained on some"
        )
    divided = without_seen(found, assign(found, known, division, alike), seen)
    if len(divided.moved):
        remark(f"{len(divided.moved):,} given images are not held out: {SEEN}")
    if crossing := groups_across(divided.found.images, divided.splits):
        remark(f"{crossing:,} groups are in several of the given splits")
    moved = len(divided.moved) > 0
    check_division(images, divided.found.images, divided.splits, division, moved=moved)
    return divided


def _copies(images: ImageSet, divided: Assigned, *, resumed: bool, remark: Remark) -> Copies | None:
    """Return the copies, and say which there are; of given splits the near duplicates, too."""
    copies = find_copies(divided.found, divided.splits)
    for line in copies.remarks() if copies is not None else ():
        remark(line)
    if not (resumed or "all" in images.splits):
        alike_across(divided.found, divided.splits, mirrored=images.flippable, remark=remark)
    return copies

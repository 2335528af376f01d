"""Sets of tar shards: images that are read where they lie in tar files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilette.data.images import SPLITS, ImageSet, LabelledImage, by_split, check_set
from mobilette.data.layout import entries
from mobilette.data.names import split_of, split_within
from mobilette.data.samples import Sample, read_samples
from mobilette.errors import InputError, nearest
from mobilette.files import LARGEST_RECORD, read_bytes

CLASSES_FILE = "classes.txt"
MOST_CLASSES = 100_000
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a sample was found."""

    split: str
    shard: int
    name: str


def find_shards(root: Path) -> dict[str, list[Path]]:
    """Return the tar shards of the set in the folder ``root`` by split; none if it has no shards.

    Raises:
        InputError: some are compressed, or it is not clear which split they are of.
    """
    folders, files = entries(root)
    if not folders:
        return _by_name(root, _tars(root, files))
    found: dict[str, list[Path]] = {}
    for folder in folders:
        split, (inside, files) = split_of(folder), entries(root / folder)
        if split is None:
            continue
        shards = [root / folder / file for file in _tars(root, files)]
        if split in found:
            raise InputError(f"{root / folder}: a second folder that means {split}; join them")
        if split == "train" and (inside or not shards):
            return {}
        found[split] = shards
    if not found.get("train"):
        return {}
    for split, shards in found.items():
        if not shards:
            raise InputError(
                f"{root}: no tar files in the folder for {split}, as there are in train/"
            )
    return {split: found[split] for split in SPLITS if split in found}


def read_shards(root: Path, name: str, shards: Mapping[str, Sequence[Path]]) -> ImageSet:
    """List the images in tar shards; only the headers in them are read, and the classes.

    A sample without an image or a class is left out and counted, and so is the one in whose
    middle a shard ends.

    Args:
        root: where ``classes.txt`` is looked for.
        name: what the set is called.
        shards: the files by split, as `find_shards` gives them.

    Raises:
        InputError: a shard is damaged, compressed or without a complete sample, or a class is
            unknown.
    """
    found: list[tuple[_Place, Sample]] = []
    unusable: list[tuple[str, str]] = []
    ignored: list[str] = []
    cut: list[str] = []
    every = [(split, path) for split, paths in shards.items() for path in paths]
    for number, (split, path) in enumerate(every):
        prefix = path.relative_to(root).as_posix()
        shard = read_samples(path)
        for sample in shard.samples:
            place = _Place(split=split, shard=number, name=f"{prefix}/{sample.name}")
            found.append((place, sample))
        unusable += [(f"{prefix}/{stem}", reason) for stem, reason in shard.unusable]
        ignored += [f"{prefix}/{file}" for file in shard.ignored]
        cut += [] if shard.complete else [prefix]
    classes, index = _classes(root, found)
    images: dict[str, list[LabelledImage]] = {}
    for place, sample in found:
        image = LabelledImage(
            name=place.name,
            label=index[sample.text],
            content=sample.image,
            shard=place.shard,
        )
        images.setdefault(place.split, []).append(image)
    remarks = []
    if cut:
        remarks.append(f"{len(cut)} of {len(every)} shards end mid-file; the first is {cut[0]}")
    return check_set(
        ImageSet(
            name=name,
            classes=classes,
            splits=by_split(images),
            divided_by="shards",
            ignored=tuple(ignored),
            unusable=tuple(unusable),
            remarks=tuple(remarks),
        )
    )


def _tars(root: Path, files: Sequence[str]) -> list[str]:
    tars = [file for file in files if file.lower().endswith(".tar")]
    packed = [file for file in files if file.lower().endswith(_COMPRESSED)]
    if packed:
        raise InputError(
            f"{root}: {packed[0]} is compressed; images are read in place, so unpack it to a "
            "plain .tar"
        )
    return tars


def _by_name(root: Path, tars: Sequence[str]) -> dict[str, list[Path]]:
    """Divide shards by the split that stands in their names, if one does."""
    found: dict[str, list[Path]] = {}
    for file in tars:
        found.setdefault(split_within(file) or "all", []).append(root / file)
    if "all" in found and len(found) > 1:
        raise InputError(
            f"{found['all'][0]}: of no split; the shards beside it are called "
            f"{', '.join(f'{split}-*.tar' for split in found if split != 'all')}"
        )
    if found and "train" not in found and "all" not in found:
        raise InputError(f"{root}: no shards called train-*.tar")
    return {split: found[split] for split in ("all", *SPLITS) if split in found}


def _classes(
    root: Path, found: Sequence[tuple[_Place, Sample]]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes in order, and which of them each text of a ``.cls`` means."""
    trained = {sample.text for place, sample in found if place.split in ("train", "all")}
    texts = {sample.text for _, sample in found}
    listed = _listed(root / CLASSES_FILE)
    numbers = all(text.isascii() and text.isdigit() for text in texts)
    if numbers:
        values = {text: int(text) for text in texts if len(text) < 10}  # longer ones: too large
        classes = listed or _numerals(values[text] for text in trained if text in values)
    else:
        classes = listed or tuple(sorted(trained))
        values = {name: number for number, name in enumerate(classes)}
    valid = {text: index for text, index in values.items() if index < len(classes)}
    for place, sample in found:
        if sample.text not in valid:
            among = f"the {len(classes)} lines of {CLASSES_FILE}" if listed else "train"
            if not listed and place.split in ("train", "all"):
                among = f"0 to {MOST_CLASSES - 1:,}"
            near = "" if numbers else nearest(sample.text, classes)
            raise InputError(
                f"{root}: {place.name}: class {sample.text!r:.60} is not in {among}{near}"
            )
    return classes, valid


def _numerals(values: Iterable[int]) -> tuple[str, ...]:
    """Return names for the numbers from 0 to the largest that is allowed, as wide as the last."""
    count = max((value for value in values if value < MOST_CLASSES), default=0) + 1
    width = len(str(count - 1))
    return tuple(str(value).zfill(width) for value in range(count))


def _listed(path: Path) -> tuple[str, ...]:
    """Return the ids in ``classes.txt``, one a line up to a tab; none where it is not there."""
    if not path.exists():
        return ()
    try:
        text = read_bytes(path, limit=LARGEST_RECORD).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text") from error
    ids: dict[str, int] = {}
    for number, line in enumerate(text.rstrip().split("\n"), start=1):
        name = line.partition("\t")[0].strip()
        if not name or name in ids:
            what = f"class {name!r} is in line {ids[name]} already" if name else "no class in it"
            raise InputError(f"{path}: line {number}: {what}; each line is one class")
        ids[name] = number
    return tuple(ids)

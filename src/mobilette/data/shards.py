"""Sets of tar shards in WebDataset's layout, read in place.

Layout: https://github.com/webdataset/webdataset. The files of a sample are adjacent and share their
name up to the first dot; what follows the dot says what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from mobilette.data.images import SPLITS, ImageSet, LabelledImage, by_split, check_set
from mobilette.data.names import DECODED, entries, is_hidden, split_of, split_within
from mobilette.data.tar import ENDS_MID_FILE, Entry, TarMember, read_entries
from mobilette.errors import InputError, nearest
from mobilette.files import LARGEST_RECORD, read_bytes

CLASSES_FILE = "classes.txt"
MOST_CLASSES = 100_000
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_IMAGE, _CLASS = "image", "cls"
_LONGEST_CLASS = 1024  # bytes


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """An image in a shard, and the text of its ``.cls``."""

    name: str
    split: str
    shard: int
    image: TarMember
    text: str


@dataclass(kw_only=True)
class _Found:
    """The content of the shards read so far; ``cut`` are those without their end mark."""

    samples: list[_Sample] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


def find_shards(root: Path) -> dict[str, list[Path]]:
    """Return the tar shards in the folder ``root`` by split; empty if it has none.

    Raises:
        InputError: some are compressed, or their split is unclear.
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
            raise InputError(f"{root / folder}: a second folder for {split}; merge them")
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
    """List the images in tar shards by reading only headers and classes.

    A sample without an image or class, or cut off by the end of its shard, is left out and counted.
    ``root`` may contain ``classes.txt``; ``name`` is the set's; ``shards`` come from `find_shards`.

    Raises:
        InputError: a shard is damaged, compressed or has no complete sample, or a class is unknown.
    """
    found = _Found()
    every = [(split, path) for split, paths in shards.items() for path in paths]
    for number, (split, path) in enumerate(every):
        _read_shard(path, path.relative_to(root).as_posix(), split, number, found)
    classes, index = _classes(root, found.samples)
    images: dict[str, list[LabelledImage]] = {}
    for sample in found.samples:
        image = LabelledImage(
            name=sample.name,
            label=index[sample.text],
            content=sample.image,
            shard=sample.shard,
        )
        images.setdefault(sample.split, []).append(image)
    remarks = [
        f"{len(found.cut)} of {len(every)} shards end mid-file; the first is {prefix}"
        for prefix in found.cut[:1]
    ]
    return check_set(
        ImageSet(
            name=name,
            classes=classes,
            splits=by_split(images),
            divided_by="shards",
            ignored=tuple(found.ignored),
            unusable=tuple(found.unusable),
            remarks=tuple(remarks),
        )
    )


def _tars(root: Path, files: Sequence[str]) -> list[str]:
    packed = [file for file in files if file.lower().endswith(_COMPRESSED)]
    if packed:
        raise InputError(
            f"{root}: {packed[0]} is compressed; images are read in place, so unpack it to a "
            "plain .tar"
        )
    return [file for file in files if file.lower().endswith(".tar")]


def _by_name(root: Path, tars: Sequence[str]) -> dict[str, list[Path]]:
    """Group shards by the split in their names, if there is one."""
    found: dict[str, list[Path]] = {}
    for file in tars:
        found.setdefault(split_within(file) or "all", []).append(root / file)
    if "all" in found and len(found) > 1:
        raise InputError(
            f"{found['all'][0]}: its name has no split; other shards are named "
            f"{', '.join(f'{split}-*.tar' for split in found if split != 'all')}"
        )
    if found and "train" not in found and "all" not in found:
        raise InputError(f"{root}: no shards named train-*.tar")
    return {split: found[split] for split in ("all", *SPLITS) if split in found}


def _read_shard(path: Path, prefix: str, split: str, number: int, found: _Found) -> None:
    if not path.is_file():
        raise InputError(f"{path}: not a file")
    before = len(found.samples)
    try:
        with path.open("rb") as file:
            every, complete = read_entries(file, where=path)
            files = [entry for entry in every if not any(map(is_hidden, _folders(entry.name)))]
            for stem, group in groupby(files, key=lambda entry: _parts(entry.name)[0]):
                sample = list(group)
                chosen = {_parts(entry.name)[1]: entry for entry in reversed(sample)}
                chosen = {kind: chosen[kind] for kind in (_IMAGE, _CLASS) if kind in chosen}
                found.ignored += [
                    f"{prefix}/{entry.name}" for entry in sample if entry not in chosen.values()
                ]
                if not chosen:
                    continue
                image, label = chosen.get(_IMAGE), chosen.get(_CLASS)
                text, fault = _class_of(file, image, label)
                if image is None or fault:
                    at_end = not complete and sample[-1] is every[-1]
                    reason = ENDS_MID_FILE if at_end else fault
                    found.unusable.append((f"{prefix}/{stem}", reason))
                    continue
                found.samples.append(
                    _Sample(
                        name=f"{prefix}/{image.name}",
                        split=split,
                        shard=number,
                        image=TarMember(path, image.offset, image.size),
                        text=text,
                    )
                )
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(found.samples) == before:
        cut = "" if complete else "; it ends mid-file"
        raise InputError(f"{path}: no complete sample (an image and its .cls){cut}")
    found.cut += [] if complete else [prefix]


def _folders(name: str) -> list[str]:
    """Return the names of the folders on a file's path, and the file's own."""
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _parts(name: str) -> tuple[str, str]:
    """Return the sample a file belongs to (empty for none), and the file's role in it."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    if not stem or not dot:
        return "", ""
    kind = _IMAGE if f".{ending.lower()}" in DECODED else ending.lower()
    return folder + slash + stem, kind


def _class_of(file: BinaryIO, image: Entry | None, label: Entry | None) -> tuple[str, str]:
    """Return the text of a sample's class, and why the sample is unusable, if it is."""
    if image is None or not image.whole:
        return "", "no image beside its .cls"
    if label is None or not label.whole:
        return "", "no .cls beside it"
    if label.size > _LONGEST_CLASS:
        return "", f"its .cls has {label.size:,} bytes, too long for a class"
    file.seek(label.offset)
    text = file.read(label.size).decode("utf-8", "replace").strip()
    if not text.isprintable() or not text or "\ufffd" in text:
        return "", "its .cls is empty or not text"
    return text, ""


def _classes(root: Path, samples: Sequence[_Sample]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes in order, and the index that each ``.cls`` text means."""
    trained = {sample.text for sample in samples if sample.split in ("train", "all")}
    texts = {sample.text for sample in samples}
    listed = _listed(root / CLASSES_FILE)
    numbers = all(text.isascii() and text.isdigit() for text in texts)
    if numbers:
        values = {text: int(text) for text in texts if len(text) < 10}  # longer ones: too large
        classes = listed or _numerals(values[text] for text in trained if text in values)
    else:
        classes = listed or tuple(sorted(trained))
        values = {name: number for number, name in enumerate(classes)}
    valid = {text: index for text, index in values.items() if index < len(classes)}
    for sample in samples:
        if sample.text not in valid:
            among = f"the {len(classes)} lines of {CLASSES_FILE}" if listed else "train"
            if not listed and sample.split in ("train", "all"):
                among = f"0 to {MOST_CLASSES - 1:,}"
            near = "" if numbers else nearest(sample.text, classes)
            raise InputError(
                f"{root}: {sample.name}: class {sample.text!r:.60} is not in {among}{near}"
            )
    return classes, valid


def _numerals(values: Iterable[int]) -> tuple[str, ...]:
    """Name the numbers from 0 to the largest allowed value, padded to equal width."""
    count = max((value for value in values if value < MOST_CLASSES), default=0) + 1
    width = len(str(count - 1))
    return tuple(str(value).zfill(width) for value in range(count))


def _listed(path: Path) -> tuple[str, ...]:
    """Return the ids in ``classes.txt``, one per line up to a tab; empty without the file."""
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
            what = f"class {name!r} is already in line {ids[name]}" if name else "empty"
            raise InputError(f"{path}: line {number}: {what}; each line is one class")
        ids[name] = number
    return tuple(ids)

"""Folders of pictures: one folder a class, maybe in folders of splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mobilette.data.names import is_hidden, may_be_picture, pictures_among
from mobilette.data.pictures import (
    MEANT_VAL,
    SPLITS,
    Picture,
    PictureSet,
    by_split,
    check_set,
)
from mobilette.errors import InputError, nearest

LAYOUT = "one folder of pictures per class, or train/ and val/ with such folders in each"


def read_folders(root: Path, name: str) -> PictureSet:
    """Find the pictures below the folder ``root``, whose set is called ``name``.

    Raises:
        InputError: it is not laid out as `find_pictures` says.
    """
    folders, ignored = entries(root)
    # "train" may also be a class, of vehicles say: then pictures lie in it and no class folders.
    divided = "train" in folders and ("val" in folders or bool(entries(root / "train")[0]))
    if not divided:
        if "val" in folders:
            raise InputError(f"{name} has val/ but no train/; expected {LAYOUT}")
        if not folders:
            pictures = sum(may_be_picture(root / file) for file in ignored)
            raise InputError(
                f"{name} has no class folders, {pictures} pictures lie directly in it; "
                f"expected {LAYOUT}"
            )
        classes = tuple(folders)
        found = {"all": _split(root, root, classes, folders, ignored, strict=True)}
        return _set(name, classes, found, ignored)
    for other in MEANT_VAL:
        if "val" not in folders and other in folders:
            raise InputError(f"{root / other}: the held-out pictures are looked for in val/")
    classes = tuple(entries(root / "train")[0])
    found = {}
    for split in SPLITS:
        if split in folders:
            inside, loose = entries(root / split)
            ignored.extend(f"{split}/{file}" for file in loose)
            strict = split == "train"
            found[split] = _split(root, root / split, classes, inside, ignored, strict=strict)
            if not found[split]:
                raise InputError(f"{root / split} has no pictures; expected {LAYOUT}")
    return _set(name, classes, found, ignored)


def _set(
    name: str,
    classes: tuple[str, ...],
    found: dict[str, tuple[Picture, ...]],
    ignored: list[str],
) -> PictureSet:
    return check_set(
        PictureSet(
            name=name, classes=classes, splits=by_split(found), ignored=tuple(sorted(ignored))
        )
    )


def _split(
    root: Path,
    folder: Path,
    classes: tuple[str, ...],
    inside: list[str],
    ignored: list[str],
    *,
    strict: bool,
) -> tuple[Picture, ...]:
    """List the pictures of the class folders ``inside`` a folder, by class, then by name."""
    for stranger in sorted(set(inside) - set(classes)):
        near = nearest(stranger, classes)
        raise InputError(f"{folder / stranger}: no class of that name in train/{near}")
    pictures = []
    for label, class_id in enumerate(classes):
        if class_id not in inside:
            continue
        files = sorted(
            (file.relative_to(root).as_posix(), file) for file in files_below(folder / class_id)
        )
        pictured = set(pictures_among(file for _, file in files))
        chosen = [
            Picture(name=name, label=label, content=file)
            for name, file in files
            if file in pictured
        ]
        if strict and not chosen:
            raise InputError(f"{folder / class_id} has no pictures; remove it or fill it")
        pictures += chosen
        ignored.extend(name for name, file in files if file not in pictured)
    return tuple(pictures)


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and of the files in a folder, hidden ones left out."""
    try:
        with os.scandir(folder) as found:
            kinds = {entry.name: _is_folder(entry) for entry in found if not is_hidden(entry.name)}
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    names = sorted(kinds)
    return [name for name in names if kinds[name]], [name for name in names if not kinds[name]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Of the two, only Path.is_dir takes a link to itself for a file instead of raising; only
    # DirEntry.is_dir answers without asking the disk again.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def files_below(folder: Path) -> Iterator[Path]:
    """Walk a folder and everything in it, each folder once, links never upwards."""
    waiting, seen = [folder], set(folder.resolve().parents)
    while waiting:
        current = waiting.pop()
        real = current.resolve()
        if real in seen:
            continue
        seen.add(real)
        folders, files = entries(current)
        waiting.extend(current / name for name in reversed(folders))
        yield from (current / name for name in files)

"""The images of a bench: a folder or a zip as a folder of train/ and val/, of some size."""

from __future__ import annotations

import shutil
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

from mobilette.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png"}
LARGEST_IMAGE = 2**24


def unpack(data: Path, folder: Path, *, train: int | None, val: int | None) -> Path:
    """Return a folder with train/ and val/ of ``data``, or of as many of its images.

    Args:
        data: a folder with train/ and val/ of class folders, or a zip of one.
        folder: where it is made, if it is not ``data`` itself.
        train: how many images to train on, as many of each class, the first by name;
            ``None`` means all.
        val: likewise for the images that are held out.

    Raises:
        InputError: ``data`` is neither, or has not as many images.
    """
    if data.is_dir() and train is None and val is None:
        return data
    if data.is_dir():
        for split, count in (("train", train), ("val", val)):
            found = [path.relative_to(data) for path in sorted((data / split).rglob("*"))]
            for name in _chosen([PurePosixPath(path.as_posix()) for path in found], split, count):
                target = _place(folder, name)
                shutil.copyfile(data / name, target)
        return folder
    if not zipfile.is_zipfile(data):
        raise InputError(f"{data}: neither a folder nor a zip")
    with zipfile.ZipFile(data) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
        for split, count in (("train", train), ("val", val)):
            for name in _chosen(names, split, count):
                if archive.getinfo(str(name)).file_size > LARGEST_IMAGE:
                    raise InputError(f"{data}: {name} is larger than an image")
                _place(folder, name).write_bytes(archive.read(str(name)))
    return folder


def count_images(folder: Path) -> int:
    """Return how many files the class folders of ``folder`` have."""
    return sum(1 for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)


def _chosen(names: list[PurePosixPath], split: str, count: int | None) -> list[PurePosixPath]:
    """Return the images of ``split``, of every class the first ones."""
    classes: dict[str, list[PurePosixPath]] = defaultdict(list)
    for name in sorted(names):
        if name.suffix.lower() in SUFFIXES and name.parts[-3:-2] == (split,):
            classes[name.parts[-2]].append(name)
    each = None if count is None else count // max(len(classes), 1)
    short = {label for label, found in classes.items() if len(found) < (each or 1)}
    if short or not classes:
        raise InputError(f"{split}/ has not {each or 'any'} images of {sorted(short)[:3]}")
    return [name for found in classes.values() for name in found[:each]]


def _place(folder: Path, name: PurePosixPath) -> Path:
    """Return where an image goes, made of the last three parts of its name."""
    split, label, file = name.parts[-3:]
    if ".." in (split, label, file) or any("\\" in part or ":" in part for part in name.parts):
        raise InputError(f"{name}: no name of an image")
    target = folder / split / label / file
    target.parent.mkdir(parents=True, exist_ok=True)
    return target

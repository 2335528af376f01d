"""Folders of pictures: one folder a class, maybe in folders of splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mobilette.data.layout import files_below, understand
from mobilette.data.names import pictures_among
from mobilette.data.pictures import Picture, PictureSet, by_split, check_set
from mobilette.errors import InputError


def read_folders(root: Path, name: str) -> PictureSet:
    """Find the pictures below the folder ``root``, whose set is called ``name``.

    Raises:
        InputError: it is not laid out as `find_pictures` says.
    """
    layout = understand(root, name)
    first = "train" if "train" in layout.folders else "all"
    classes = tuple(sorted(layout.folders[first]))
    ignored = list(layout.ignored)
    found = {
        split: _split(root, folders, classes, ignored, strict=split == first)
        for split, folders in layout.folders.items()
    }
    for split, pictures in found.items():
        if not pictures:
            places = sorted({folder.parent for folder in layout.folders[split].values()})
            raise InputError(f"{places[0]} has no pictures in its folders; fill it or remove it")
    return check_set(
        PictureSet(
            name=name,
            classes=classes,
            splits=by_split(found),
            ignored=tuple(sorted(ignored)),
            remarks=layout.remarks,
        )
    )


def _split(
    root: Path,
    folders: Mapping[str, Path],
    classes: tuple[str, ...],
    ignored: list[str],
    *,
    strict: bool,
) -> tuple[Picture, ...]:
    """List the pictures in the ``folders`` of classes, by class, then by name."""
    pictures = []
    for label, class_id in enumerate(classes):
        if class_id not in folders:
            continue
        folder = folders[class_id]
        files = sorted((file.relative_to(root).as_posix(), file) for file in files_below(folder))
        pictured = set(pictures_among(file for _, file in files))
        chosen = [
            Picture(name=name, label=label, content=file)
            for name, file in files
            if file in pictured
        ]
        if strict and not chosen:
            raise InputError(f"{folder} has no pictures; remove it or fill it")
        pictures += chosen
        ignored.extend(name for name, file in files if file not in pictured)
    return tuple(pictures)

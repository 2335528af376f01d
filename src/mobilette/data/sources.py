"""What DATA is: a folder of pictures or a named set becomes one list of labelled pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.cifar import LAYOUTS, read_cifar
from mobilette.data.decoding import decode
from mobilette.errors import InputError, nearest

NAMED = ("digits", *LAYOUTS)
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)
_LAYOUT = "one folder of pictures per class, or train/ and val/ with such folders in each"
# A split under another name would silently be no split at all.
_MEANT_VAL = ("valid", "validation", "dev", "eval")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One labelled picture, not yet decoded.

    Attributes:
        name: its identity, wherever the set lies: the path relative to the root of the set, with
            ``/``, or for example ``"digits/17"``.
        label: index into the set's classes.
        content: a file, or uint8 pixels of shape (H, W) or (H, W, 3).
    """

    name: str
    label: int
    content: Path | NDArray[np.uint8] = field(compare=False)

    def open(self) -> Image.Image:
        """Decode the picture to mode ``"RGB"`` or ``"L"``.

        Raises:
            UnusablePicture: it cannot be decoded.
        """
        if isinstance(self.content, Path):
            return decode(self.content)
        return Image.fromarray(self.content)


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """The pictures of one set, before any is decoded.

    Attributes:
        name: the set as it was asked for.
        classes: class ids in frozen order; labels index it.
        splits: pictures by split: ``"train"``, ``"val"`` and ``"test"`` where the set is divided;
            ``"all"`` (and ``"test"`` where there is one) where it is not.
        flippable: whether a picture means the same seen in a mirror.
        ignored: names of files that are no part of the set: no picture's suffix, or in no class.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Picture, ...]]
    flippable: bool = True
    ignored: tuple[str, ...] = ()


def find_pictures(data: str | Path) -> PictureSet:
    """Find the pictures of ``data``; none is decoded.

    ``data`` is a folder of class folders, or of ``train/``, ``val/`` and maybe ``test/`` with
    class folders in each, or the name of a set: ``digits`` (scikit-learn's 1,797 digits, 8 by 8,
    grey), ``cifar10`` or ``cifar100`` (looked up in the folder that the environment variable
    ``MOBILETTE_DATA`` names). A name means the set; write ``./digits`` for a folder of that name.

    Raises:
        InputError: there is no such folder or set, or it is not laid out as above.
    """
    name = str(data)
    path = Path(data)
    if name in NAMED and not (isinstance(data, Path) and data.exists()):
        return _digits() if name == "digits" else _cifar(name)
    if not _exists(path):
        near = nearest(name, NAMED) or nearest(path.name, _names_beside(path))
        raise InputError(f"{name}: no such folder or set ({', '.join(NAMED)}){near}")
    if not path.is_dir():
        raise InputError(f"{name} is a file; expected a folder with {_LAYOUT}")
    return _folder(path, name)


def list_pictures(paths: Iterable[Path]) -> list[Path]:
    """Return ``paths`` with every folder replaced by the pictures in it, sorted by name.

    Raises:
        InputError: a folder has no pictures.
    """
    pictures: list[Path] = []
    for path in paths:
        if not path.is_dir():
            pictures.append(path)
            continue
        inside = sorted(file for file in _files(path) if file.suffix.lower() in SUFFIXES)
        if not inside:
            raise InputError(f"{path}: no pictures in this folder")
        pictures += inside
    return pictures


def _digits() -> PictureSet:
    from sklearn.datasets import load_digits  # 1.8 seconds to import

    bunch = load_digits()
    levels = np.asarray(bunch.images, dtype=np.float64)  # 0 to 16
    pixels = np.rint(levels * 255 / 16).astype(np.uint8)
    pictures = tuple(
        Picture(name=f"digits/{index}", label=int(label), content=pixels[index])
        for index, label in enumerate(bunch.target)
    )
    return PictureSet(
        name="digits",
        classes=tuple("0123456789"),
        splits={"all": pictures},
        flippable=False,
    )


def _cifar(name: str) -> PictureSet:
    layout = LAYOUTS[name]
    variable = os.environ.get("MOBILETTE_DATA", "")
    if not variable:
        raise InputError(
            f"{name} is looked up in the folder that MOBILETTE_DATA names, which is not set; "
            f"set it to a folder that holds {layout.archive} from {layout.url}"
        )
    root = Path(variable)
    cifar = read_cifar(layout, root)
    if cifar is None:
        if (root / name).is_dir():
            return _folder(root / name, name)
        raise InputError(
            f"{name} is not in {root} (MOBILETTE_DATA); put {layout.archive} from {layout.url} "
            f"there, or its folder {layout.folder}/, or a folder {name}/ with {_LAYOUT}"
        )
    splits = {
        split: tuple(
            Picture(name=f"{name}/{split}/{index}", label=int(label), content=pixels[index])
            for index, label in enumerate(labels)
        )
        for split, (pixels, labels) in cifar.splits.items()
    }
    return PictureSet(name=name, classes=cifar.classes, splits=splits)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a folder above that is locked
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _names_beside(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _folder(root: Path, name: str) -> PictureSet:
    folders, ignored = _entries(root)
    # "train" may also be a class, of vehicles say: then pictures lie in it and no class folders.
    divided = "train" in folders and ("val" in folders or bool(_entries(root / "train")[0]))
    if not divided:
        if "val" in folders:
            raise InputError(f"{name} has val/ but no train/; expected {_LAYOUT}")
        if not folders:
            pictures = sum(Path(file).suffix.lower() in SUFFIXES for file in ignored)
            raise InputError(
                f"{name} has no class folders, {pictures} pictures lie directly in it; "
                f"expected {_LAYOUT}"
            )
        classes = tuple(folders)
        found = {"all": _split(root, root, classes, folders, ignored, strict=True)}
        return _set(name, classes, found, ignored)
    for other in _MEANT_VAL:
        if "val" not in folders and other in folders:
            raise InputError(f"{root / other}: the held-out pictures are looked for in val/")
    classes = tuple(_entries(root / "train")[0])
    found = {}
    for split in ("train", "val", "test"):
        if split in folders:
            inside, loose = _entries(root / split)
            ignored.extend(f"{split}/{file}" for file in loose)
            train = split == "train"
            key = "all" if train and "val" not in folders else split
            found[key] = _split(root, root / split, classes, inside, ignored, strict=train)
            if not found[key]:
                raise InputError(f"{root / split} has no pictures; expected {_LAYOUT}")
    return _set(name, classes, found, ignored)


def _set(
    name: str,
    classes: tuple[str, ...],
    splits: Mapping[str, tuple[Picture, ...]],
    ignored: list[str],
) -> PictureSet:
    if len(classes) < 2:
        raise InputError(f"{name} has one class, {classes[0]!r}; a classifier needs two or more")
    return PictureSet(name=name, classes=classes, splits=splits, ignored=tuple(sorted(ignored)))


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
            (file.relative_to(root).as_posix(), file) for file in _files(folder / class_id)
        )
        chosen = [
            Picture(name=name, label=label, content=file)
            for name, file in files
            if file.suffix.lower() in SUFFIXES
        ]
        if strict and not chosen:
            raise InputError(f"{folder / class_id} has no pictures; remove it or fill it")
        pictures += chosen
        ignored.extend(name for name, file in files if file.suffix.lower() not in SUFFIXES)
    return tuple(pictures)


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and of the files in a folder, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            kinds = {
                entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")
            }
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    names = sorted(kinds)
    return [name for name in names if kinds[name]], [name for name in names if not kinds[name]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Of the two, only Path.is_dir takes a link to itself for a file instead of raising; only
    # DirEntry.is_dir answers without asking the disk again.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _files(folder: Path) -> Iterator[Path]:
    """Walk a folder and everything in it, each folder once, links never upwards."""
    waiting, seen = [folder], set(folder.resolve().parents)
    while waiting:
        current = waiting.pop()
        real = current.resolve()
        if real in seen:
            continue
        seen.add(real)
        folders, files = _entries(current)
        waiting.extend(current / name for name in reversed(folders))
        yield from (current / name for name in files)

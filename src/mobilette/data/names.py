"""What file and folder names suggest; whether a file is an image, its content decides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from unicodedata import normalize

from mobilette.data.formats import HEAD, is_image
from mobilette.errors import InputError


def _suffixes(endings: str) -> frozenset[str]:
    return frozenset(f".{ending}" for ending in endings.split())


DECODED = _suffixes(
    "jpg jpeg jpe jfif jif pjpeg pjp mpo png apng bmp dib gif tif tiff webp ppm pgm pbm pnm "
    "avif avifs heic heics heif heifs hif jp2 j2k j2c jpc jpf jpx tga"
)
# Images that are not decoded here: counted, not ignored silently.
OTHERS = _suffixes(
    "jxl psd svg svgz ico cur pam qoi dds exr hdr pcx xcf eps dng cr2 cr3 nef arw orf raf rw2"
)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
NO_ADDRESSES = "web addresses are not supported; download it first"
# What systems leave in folders, besides names that begin with a dot.
_LITTER = frozenset(
    ("__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "icon\r")
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or system litter."""
    return name.startswith(".") or name.lower() in _LITTER


def folded(name: str) -> str:
    """Return ``name`` without case, accents composed (macOS decomposes them)."""
    return normalize("NFC", name).casefold()


def is_address(text: str) -> bool:
    """Whether ``text`` is a web or store address, perhaps as ``Path`` shortens it."""
    return _ADDRESS.match(text) is not None


def refuse_address(text: str) -> None:
    """Raise `InputError` if ``text`` is an address instead of a path."""
    if is_address(text):
        raise InputError(f"{text}: {NO_ADDRESSES}")


def has_image_name(name: str) -> bool:
    """Whether a file has an image suffix, including formats that are not decoded."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  # quicker, for names alone
    return suffix in DECODED or suffix in OTHERS


def may_be_image(path: Path) -> bool:
    """Whether a file has an image's name or, if its name tells nothing, begins like an image.

    Only regular files are opened, never a pipe or device.
    """
    if has_image_name(path.name):
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return is_image(file.read(HEAD))
    except (OSError, ValueError):
        return False


def images_among(files: Iterable[Path]) -> list[Path]:
    """Return those of ``files`` that may be images, in their order.

    A file that cannot be decoded goes with one of the same name that can: a camera's raw image with
    its JPEG, a depth map with its image.
    """
    images = [file for file in files if may_be_image(file)]
    others = [file for file in images if file.suffix.lower() in OTHERS]
    if not others:
        return images
    names = {file.with_suffix("") for file in images if file.suffix.lower() in DECODED}
    left_out = {file for file in others if file.with_suffix("") in names}
    return [file for file in images if file not in left_out]


_SPLIT_WORDS = {
    "train": ("train", "training", "trainset", "traindata", "trainval"),
    "val": ("val", "valid", "validation", "valset", "validset", "dev", "devset", "eval"),
    "test": ("test", "testing", "testset", "testdata"),
}
_SPLIT_OF_WORD = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
# Words beside the split, as in train_set, val-data, test2017, Training Images.
_BESIDE = frozenset(("set", "data", "dataset", "images", "imgs", "pictures", "photos", "split"))
_KIND_OF_WORD = {
    **dict.fromkeys(("image", "images", "img", "imgs", "jpegimages"), "images"),
    **dict.fromkeys(("label", "labels", "mask", "masks", "annotation", "annotations"), "marks"),
}
_CAMEL, _WORD = re.compile(r"(?<=[a-z])(?=[A-Z])"), re.compile(r"[^\W\d_]+")


def split_of(name: str) -> str | None:
    """Return the split (train, val or test) that a folder's name or a cell means.

    Case does not matter; words such as set, data or images and numbers may surround it.
    """
    words = _words(name)
    if len(words) > 1:
        words = [word for word in words if word not in _BESIDE]
    return _SPLIT_OF_WORD.get("".join(words))


def splits_among(folders: Iterable[str]) -> dict[str, str]:
    """Return the splits among ``folders``, by their names.

    If no name is a split by itself, names that differ only in the word of a split are, such as
    ``seg_train`` and ``seg_test``.
    """
    folders = list(folders)
    alone = {folder: split for folder in folders if (split := split_of(folder))}
    if alone:
        return alone
    found: dict[frozenset[str], dict[str, str]] = {}
    for folder in folders:
        words = _words(folder)
        named = [word for word in words if word in _SPLIT_OF_WORD]
        if len(named) == 1:
            rest = frozenset(words) - {named[0]} - _BESIDE
            found.setdefault(rest, {})[folder] = _SPLIT_OF_WORD[named[0]]
    pairs = [same for same in found.values() if len(set(same.values())) > 1]
    return {folder: split for same in pairs for folder, split in same.items()}


def drawn_on(folders: Iterable[str]) -> tuple[str, str] | None:
    """Return a folder of images and one of their annotations among ``folders``, if there are both.

    Detection and segmentation sets look like this: ``images`` and ``labels``, or ``masks``.
    """
    found: dict[str, str] = {}
    for folder in folders:
        words = [word for word in _words(folder) if word not in _SPLIT_OF_WORD]
        if len(words) == 1 and (kind := _KIND_OF_WORD.get(words[0])):
            found.setdefault(kind, folder)
    return (found["images"], found["marks"]) if len(found) == 2 else None


def split_within(name: str) -> str | None:
    """Return the split that one word of ``name`` means, as in ``cats-train-0001.tar``."""
    return next((_SPLIT_OF_WORD[word] for word in _words(name) if word in _SPLIT_OF_WORD), None)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_CAMEL.sub(" ", name))]


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of a folder's subfolders and files, hidden ones left out."""
    try:
        with os.scandir(folder) as found:
            kinds = {entry.name: _is_folder(entry) for entry in found if not is_hidden(entry.name)}
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    names = sorted(kinds)
    return [name for name in names if kinds[name]], [name for name in names if not kinds[name]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Only Path.is_dir takes a link to itself for a file instead of raising; only DirEntry.is_dir
    # answers without asking the disk again.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def files_below(folder: Path) -> Iterator[Path]:
    """Walk a folder and everything in it, each folder once, following no link upwards."""
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

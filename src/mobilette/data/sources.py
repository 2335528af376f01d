"""Turn DATA, images on disk or a named set, into one list of labelled images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mobilette.data.cifar import LAYOUTS, read_cifar
from mobilette.data.folders import LAYOUT, read_folders
from mobilette.data.groups import with_groups
from mobilette.data.images import ImageSet, LabelledImage
from mobilette.data.lists import LIST_SUFFIXES, read_list
from mobilette.data.names import entries, files_below, images_among
from mobilette.data.shards import find_shards, read_shards
from mobilette.errors import InputError, nearest

NAMED = ("digits", *LAYOUTS)


def find_images(data: str | Path, *, groups: str | None = None) -> ImageSet:
    """Find the images of ``data`` without decoding any.

    ``data`` is one of

    - a folder of class folders: ``cat/1.jpg``, ``dog/2.png``, named like the classes. Or a folder
      of ``train/``, ``val/`` and maybe ``test/``, each with class folders;
    - a list, a ``.csv``, ``.tsv`` or ``.txt`` file whose first row names the columns: ``path``,
      relative to the list's folder and inside it; ``label``, a class, or ``labels``, any number of
      them separated by ``;`` or ``|`` (a multi-label set), or a column of 0 and 1 for each class;
      and maybe ``split``: ``train``, ``val`` or ``test``. Other columns are ignored. Other
      separators, encodings, column names, and lists without a header are accepted where they are
      unambiguous; see ``docs/accepted.md``;
    - a folder of uncompressed tar shards as WebDataset writes them: ``train-000000.tar``,
      ``val-000000.tar``, or ``train/`` and ``val/`` with tar files in each. A sample is an image
      and, under the same name, a ``.cls`` with its class, as a name or as a number counted from 0.
      The lines (``id`` or ``id<TAB>name``) of an optional ``classes.txt`` beside the shards name
      the numbers. Nothing is unpacked;
    - the name of a set: ``digits`` (scikit-learn's 1,797 digits, 8 by 8, grey), ``cifar10`` or
      ``cifar100`` (in the folder named by the environment variable ``MOBILETTE_DATA``). Write
      ``./digits`` for a folder of that name.

    Without a ``val`` split, `mobilette.data.division.hold_out` chooses the validation images.
    Classes are sorted by name unless ``classes.txt`` orders them. ``groups`` says which images
    belong together (`with_groups`).

    Raises:
        InputError: there is no such folder, list or set, or it is not laid out as above.
    """
    return with_groups(_find(data, groups), groups)


def _find(data: str | Path, groups: str | None) -> ImageSet:
    if not isinstance(data, str | os.PathLike):
        raise InputError(
            f"data is a folder, a list or the name of a set, not {type(data).__name__}"
        )
    name = str(data)
    path = Path(data)
    if name in NAMED and not (isinstance(data, Path) and data.exists()):
        return _digits() if name == "digits" else _cifar(name)
    if not _exists(path):
        near = nearest(name, NAMED) or nearest(path.name, _names_beside(path))
        raise InputError(f"{name}: no such folder, list or set ({', '.join(NAMED)}){near}")
    if path.is_dir():
        return _folder(path, name)
    if path.suffix.lower() in LIST_SUFFIXES:
        return read_list(path, name, groups=groups)
    raise InputError(
        f"{name} is a file; expected a list ({', '.join(LIST_SUFFIXES)}), or a folder with {LAYOUT}"
    )


def list_images(
    paths: Iterable[str | Path],
    *,
    recursive: bool = True,
    on_skipped: Callable[[Path, list[Path]], None] | None = None,
) -> list[str | Path]:
    """Return ``paths`` with every folder replaced by the images in it, sorted by name.

    Args:
        paths: files and folders.
        recursive: look into the folders of folders, too.
        on_skipped: called with each folder that contains other files and a list of them, at any
            depth, then with each folder without images and an empty list.

    Raises:
        InputError: there are only folders, all without images.
    """
    images: list[str | Path] = []
    empty: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112  # which takes any name
            images.append(path)
            continue
        path = Path(path)
        if recursive:
            files = sorted(files_below(path))
        else:
            files = [path / name for name in entries(path)[1]]
        inside = images_among(files)
        if on_skipped is not None and len(inside) < len(files):
            on_skipped(path, sorted(set(files) - set(inside)))
        if not inside:
            empty.append(path)
        images += inside
    if empty and not images:
        raise InputError(f"{empty[0]}: no images in this folder")
    if on_skipped is not None:
        for folder in empty:
            on_skipped(folder, [])
    return images


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits  # 1.8 seconds to import

    bunch = load_digits()
    levels = np.asarray(bunch.images, dtype=np.float64)  # 0 to 16
    pixels = np.rint(levels * 255 / 16).astype(np.uint8)
    images = tuple(
        LabelledImage(name=f"digits/{index}", label=int(label), content=pixels[index])
        for index, label in enumerate(bunch.target)
    )
    return ImageSet(
        name="digits",
        classes=tuple("0123456789"),
        splits={"all": images},
        flippable=False,
    )


def _cifar(name: str) -> ImageSet:
    layout = LAYOUTS[name]
    variable = os.environ.get("MOBILETTE_DATA", "")
    if not variable:
        raise InputError(
            f"{name}: MOBILETTE_DATA is not set; set it to a folder that contains "
            f"{layout.archive} from {layout.url}"
        )
    root = Path(variable)
    found = read_cifar(layout, root)
    if found is None:
        if (root / name).is_dir():
            return _folder(root / name, name)
        raise InputError(
            f"{name} is not in {root} (MOBILETTE_DATA); put {layout.archive} from {layout.url} "
            f"there, or its folder {layout.folder}/, or a folder {name}/ with {LAYOUT}"
        )
    classes, arrays = found
    splits = {
        split: tuple(
            LabelledImage(name=f"{name}/{split}/{index}", label=int(label), content=pixels[index])
            for index, label in enumerate(labels)
        )
        for split, (pixels, labels) in arrays.items()
    }
    return ImageSet(name=name, classes=classes, splits=splits)


def _folder(path: Path, name: str) -> ImageSet:
    shards = find_shards(path)
    return read_shards(path, name, shards) if shards else read_folders(path, name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a locked folder above
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _names_beside(path: Path) -> list[str]:
    try:
        return [
            entry.name
            for entry in path.parent.iterdir()
            if entry.suffix.lower() in LIST_SUFFIXES or entry.is_dir()
        ]
    except OSError:
        return []

"""Folders of images: one folder per class, maybe in folders of splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mobilette.data.images import ImageSet, LabelledImage, by_split, check_set
from mobilette.data.layout import entries, files_below, understand
from mobilette.data.names import images_among
from mobilette.errors import InputError

# Where Mobilette's own results lie, if it was started in the folder of the set.
_OURS, _RECORDS = ("runs", "exports"), {"arch.json", "contract.json"}


def read_folders(root: Path, name: str) -> ImageSet:
    """Find the images below the folder ``root``, whose set is called ``name``.

    Raises:
        InputError: it is not laid out as `find_images` says.
    """
    layout = understand(root, name)
    first = "train" if "train" in layout.folders else "all"
    ours = [name for name in _OURS if _holds_results(layout.folders[first].get(name))]
    classes = tuple(sorted(set(layout.folders[first]) - set(ours)))
    ignored = list(layout.ignored)
    found = {
        split: _split(root, folders, classes, ignored, strict=split == first)
        for split, folders in layout.folders.items()
    }
    for split, images in found.items():
        if not images:
            places = sorted({folder.parent for folder in layout.folders[split].values()})
            raise InputError(f"{places[0]} has no images in its folders; fill it or remove it")
    return check_set(
        ImageSet(
            name=name,
            classes=classes,
            splits=by_split(found),
            ignored=tuple(sorted(ignored)),
            remarks=(*layout.remarks, *(f"{name}: left out {each}/, results" for each in ours)),
        )
    )


def _split(
    root: Path,
    folders: Mapping[str, Path],
    classes: tuple[str, ...],
    ignored: list[str],
    *,
    strict: bool,
) -> tuple[LabelledImage, ...]:
    """List the images in the ``folders`` of classes, by class, then by name."""
    images = []
    for label, class_id in enumerate(classes):
        if class_id not in folders:
            continue
        folder = folders[class_id]
        files = sorted((file.relative_to(root).as_posix(), file) for file in files_below(folder))
        imaged = set(images_among(file for _, file in files))
        chosen = [
            LabelledImage(name=name, label=label, content=file)
            for name, file in files
            if file in imaged
        ]
        if strict and not chosen:
            raise InputError(
                f"{folder} has no images; remove it or fill it{_hint(folders.values())}"
            )
        images += chosen
        ignored.extend(name for name, file in files if file not in imaged)
    return tuple(images)


def _holds_results(folder: Path | None, *, depth: int = 2) -> bool:
    """Whether a run or an artifact lies in ``folder``, at most so deep."""
    if folder is None:
        return False
    folders, files = entries(folder)
    return not _RECORDS.isdisjoint(files) or (
        depth > 0 and any(_holds_results(folder / name, depth=depth - 1) for name in folders)
    )


def _hint(folders: Iterable[Path]) -> str:
    """Name the one of ``folders`` that holds several, which may be the classes."""
    several = [folder for folder in folders if len(entries(folder)[0]) > 1]
    return f"; give {several[0]} if its folders are the classes" if len(several) == 1 else ""

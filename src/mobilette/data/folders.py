"""Folders of images: one folder per class, optionally inside split folders.

Names and contents tell whether folders are splits, classes, or wrappers around them. An ambiguous
layout is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mobilette.data.images import SPLITS, ImageSet, LabelledImage, by_split, check_set
from mobilette.data.names import (
    drawn_on,
    entries,
    files_below,
    folded,
    images_among,
    may_be_image,
    split_of,
    splits_among,
)
from mobilette.errors import InputError, nearest

LAYOUT = "one folder of images per class, or train/ and val/ with such folders in each"
# How many nested folders may wrap the classes.
_MOST_AROUND = 8
# Mobilette's own results, if it was started in the set's folder.
_OURS, _RECORDS = ("runs", "exports"), {"arch.json", "contract.json"}

# Class folders by split (``all`` for a flat set), then by class.
_Folders = dict[str, dict[str, Path]]


def read_folders(root: Path, name: str) -> ImageSet:
    """Find the images below ``root``, for a set called ``name``.

    Raises:
        InputError: the layout is not one that `find_images` describes.
    """
    reader = _Reader(root, name)
    layout = reader.understand()
    first = "train" if "train" in layout else "all"
    ours = [each for each in _OURS if _holds_results(layout[first].get(each))]
    classes = tuple(sorted(set(layout[first]) - set(ours)))
    found = {
        split: reader.images(folders, classes, strict=split == first)
        for split, folders in layout.items()
    }
    reader.remarks += [f"{each}/ contains results and is left out" for each in ours]
    for split, images in found.items():
        if not images:
            places = sorted({folder.parent for folder in layout[split].values()})
            raise InputError(f"{places[0]} has no images in its folders; fill it or remove it")
    return check_set(
        ImageSet(
            name=name,
            classes=classes,
            splits=by_split(found),
            ignored=tuple(sorted(reader.ignored)),
            remarks=tuple(f"{name}: {remark}" for remark in reader.remarks),
        )
    )


class _Reader:
    """Reads the folder ``root`` of the set ``name``.

    Attributes:
        ignored: files, relative to the root, that are not images or lie outside the class folders.
        remarks: how the layout was understood where that is not obvious, one line each.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.ignored: list[str] = []
        self.remarks: list[str] = []

    def understand(self) -> _Folders:
        """Return the class folders."""
        place = self._enter(self.root)
        folders, files = entries(place)
        self._ignore(place, files)
        if place != self.root:
            self.remarks.append(f"the classes are in {self._relative(place)}/")
        if not folders:
            images = sum(may_be_image(place / file) for file in files)
            raise InputError(
                f"{self.name} has no class folders, {images} images are directly in it; "
                f"expected {LAYOUT}"
            )
        _check_classes(place, folders)
        splits = self._splits(place, folders)
        if splits:
            found = self._divided(splits)
            rest = sorted(set(folders) - {path.name for path in splits.values()})
            if rest:
                self.remarks.append(f"left out because they are not splits: {_list(rest)}")
            return found
        inside = {folder: entries(place / folder)[0] for folder in folders}
        if _is_split_in_each(inside):
            by_split = _by_split(place, inside)
            for classes in by_split.values():
                self._check_parts(classes)
            inner = _list(inside[folders[0]])
            self.remarks.append(f"each class folder contains splits, as in {folders[0]}/: {inner}")
            return by_split
        for folder, within in inside.items():
            there = set(map(split_of, within))
            if there == {"train"} or len(there - {None}) > 1:
                raise self._unclear(folders, f"splits {_list(within)} in each, as in {folder}/")
        flat = {folder: place / folder for folder in folders}
        self._check_parts(flat)
        return {"all": flat}

    def images(
        self, folders: Mapping[str, Path], classes: tuple[str, ...], *, strict: bool
    ) -> tuple[LabelledImage, ...]:
        """List the images in the class ``folders``, by class, then by name."""
        images: list[LabelledImage] = []
        for label, class_id in enumerate(classes):
            if class_id not in folders:
                continue
            folder = folders[class_id]
            files = sorted((self._relative(file), file) for file in files_below(folder))
            chosen = set(images_among(file for _, file in files))
            if strict and not chosen:
                hint = _hint(folders.values())
                raise InputError(f"{folder} has no images; remove it or fill it{hint}")
            images += [
                LabelledImage(name=name, label=label, content=file)
                for name, file in files
                if file in chosen
            ]
            self.ignored += [name for name, file in files if file not in chosen]
        return tuple(images)

    def _enter(self, place: Path, *, classes: Collection[str] = ()) -> Path:
        """Descend while one folder holds everything and is neither a split nor in ``classes``."""
        for _ in range(_MOST_AROUND):
            folders, files = entries(place)
            if len(folders) != 1 or any(may_be_image(place / file) for file in files):
                break
            inner = place / folders[0]
            within = entries(inner)[0]
            is_split = (
                place == self.root and split_of(inner.name) and not any(map(split_of, within))
            )
            is_class = not within and inner.name != place.name  # test/test/1.jpg has no labels
            if is_class or is_split or folded(inner.name) in classes:
                break
            self._ignore(place, files)
            place = inner
        return place

    def _splits(self, place: Path, folders: list[str]) -> dict[str, Path]:
        """Return the split folders; none where the set is flat."""
        named = splits_among(folders)
        if not named:
            return {}
        splits: dict[str, Path] = {}
        for folder, split in named.items():
            if split in splits:
                raise InputError(
                    f"{self.name}: {splits[split].name}/ and {folder}/ both mean {split}; "
                    "rename or merge them"
                )
            splits[split] = place / folder
        others = [folder for folder in folders if folder not in named]
        looks = _list(named)
        if not any(entries(path)[0] for path in splits.values()):
            if others and list(splits) == ["train"]:  # a class among vehicles, perhaps
                return {}
            table = next(filter(None, map(_table, splits.values())), None)
            if table is not None:
                raise InputError(
                    f"{self.name}: {looks} have no class folders; give the list {table}"
                )
            raise self._unclear(folders, f"splits {looks} without class folders")
        if any(_holds_images(place / folder) for folder in others):
            raise self._unclear(folders, f"splits {looks}")
        if "train" not in splits:
            raise InputError(f"{self.name} has {looks}, but no train/; expected {LAYOUT}")
        return splits

    def _divided(self, splits: Mapping[str, Path]) -> _Folders:
        """Return the class folders by split."""
        said = [f"{path.name}/ is {split}" for split, path in splits.items() if path.name != split]
        unlabelled = []
        found: _Folders = {}
        for split in sorted(splits, key=SPLITS.index):
            known = {folded(class_id) for class_id in found.get("train", ())}
            place = self._enter(splits[split], classes=known)
            folders, files = entries(place)
            self._ignore(place, files)
            if not folders:
                unlabelled.append(_remark_unlabelled(place, split))
                continue
            _check_classes(place, folders)
            if place != splits[split]:
                said.append(f"the classes of {split} are in {self._relative(place)}/")
            found[split] = {folder: place / folder for folder in folders}
            if split != "train":
                found[split] = _as_in_train(found["train"], found[split])
        self.remarks += [", ".join(said)] * bool(said) + unlabelled
        return found

    def _check_parts(self, classes: Mapping[str, Path]) -> None:
        """Raise `InputError` if class folders share subfolder names: which level is the classes?"""
        inside = [set(entries(folder)[0]) for folder in classes.values()]
        for (outer, folder), within in zip(classes.items(), inside, strict=True):
            if len(within & set(classes)) > 1 and not _holds_images(folder):
                raise self._unclear(classes, f"classes {_list(sorted(within))} in {outer}/")
        shared = set.intersection(*inside)
        if len(inside) > 1 and len(shared) > 1 and not any(map(_holds_images, classes.values())):
            parts = f"classes {_list(sorted(shared))} in {len(inside)} parts"
            raise self._unclear(classes, parts)

    def _unclear(self, classes: Iterable[str], other: str) -> InputError:
        return InputError(
            f"{self.name} could mean either: classes {_list(classes)}, or {other}; rename or move "
            f"folders so that it is {LAYOUT}"
        )

    def _ignore(self, place: Path, files: Iterable[str]) -> None:
        self.ignored += [self._relative(place / file) for file in files]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _check_classes(place: Path, folders: Iterable[str]) -> None:
    """Raise `InputError` where ``folders`` are images and annotations instead of classes."""
    if found := drawn_on(folders):
        images, marks = found
        raise InputError(
            f"{place}: {images}/ and {marks}/ are laid out for detection or segmentation; expected "
            f"{LAYOUT}; give {place / images} if its folders are the classes"
        )


def _remark_unlabelled(place: Path, split: str) -> str:
    """Return a remark on a test split without class folders; raise `InputError` for others."""
    images = sum(may_be_image(place / file) for file in entries(place)[1])
    if not images:
        raise InputError(f"{place} has no images; expected {LAYOUT}")
    if split != "test":
        table = _table(place)
        hint = f"; give the list {table}" if table else ""
        raise InputError(
            f"{place} has {images:,} images but no class folders; expected {LAYOUT}{hint}"
        )
    return (
        f"the {images:,} images of {place.name}/ are in no class folder: they have no labels and "
        "are left out"
    )


def _as_in_train(train: Mapping[str, Path], folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return a split's folders by class, allowing another case than in ``train``."""
    lower: dict[str, list[str]] = {}
    for class_id in train:
        lower.setdefault(folded(class_id), []).append(class_id)
    found = {}
    for folder, path in folders.items():
        same = [folder] if folder in train else lower.get(folded(folder), [])
        if len(same) != 1 or same[0] in found:
            raise InputError(f"{path}: no class of that name in train/{nearest(folder, train)}")
        found[same[0]] = path
    return found


def _is_split_in_each(inside: Mapping[str, list[str]]) -> bool:
    """Whether every class folder contains splits, as in ``cat/train``."""
    return len(inside) > 1 and all(
        folders and all(map(split_of, folders)) and "train" in map(split_of, folders)
        for folders in inside.values()
    )


def _by_split(place: Path, inside: Mapping[str, list[str]]) -> _Folders:
    found: _Folders = {}
    for class_id, folders in inside.items():
        for folder in folders:
            split = split_of(folder) or ""
            if class_id in found.setdefault(split, {}):
                raise InputError(f"{place / class_id}: two of its folders mean {split}")
            found[split][class_id] = place / class_id / folder
    return found


def _table(folder: Path) -> Path | None:
    tables = (file for file in entries(folder)[1] if file.lower().endswith((".csv", ".tsv")))
    return next((folder / file for file in tables), None)


def _holds_images(folder: Path) -> bool:
    return any(may_be_image(folder / file) for file in entries(folder)[1])


def _holds_results(folder: Path | None, *, depth: int = 2) -> bool:
    """Whether a run or an artifact lies in ``folder``, at most ``depth`` levels down."""
    if folder is None:
        return False
    folders, files = entries(folder)
    return not _RECORDS.isdisjoint(files) or (
        depth > 0 and any(_holds_results(folder / name, depth=depth - 1) for name in folders)
    )


def _hint(folders: Iterable[Path]) -> str:
    """Name the one of ``folders`` that contains several folders, which may be the classes."""
    several = [folder for folder in folders if len(entries(folder)[0]) > 1]
    return f"; give {several[0]} if its folders are the classes" if len(several) == 1 else ""


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f"{name}/" for name in names[:4]) + ", ..." * (len(names) > 4)

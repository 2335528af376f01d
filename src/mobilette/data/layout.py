"""What the folders of a set mean: splits, classes, or wrappers of these."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilette.data.names import drawn_on, folded, is_hidden, may_be_image, split_of, splits_among
from mobilette.errors import InputError, nearest

LAYOUT = "one folder of images per class, or train/ and val/ with such folders in each"
# How many folders may lie around the classes, one in another.
_MOST_AROUND = 8


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A set's folders, understood.

    Attributes:
        folders: by split (``all`` for a flat set), then by class: where its images lie, at any
            depth.
        ignored: files, relative to the root, that lie beside the folders of classes.
        remarks: what was understood where that is not obvious, each one line.
    """

    folders: Mapping[str, Mapping[str, Path]]
    ignored: tuple[str, ...]
    remarks: tuple[str, ...]


def understand(root: Path, name: str) -> Layout:
    """Return what the folders in ``root`` mean, whose set is called ``name``.

    Raises:
        InputError: there are no classes, or the folders could mean two things: then both are named.
    """
    place, ignored = _enter(root, root)
    folders, files = entries(place)
    ignored += _relative(root, place, files)
    remarks = [f"{name}: the classes are in {_shown(root, place)}"] if place != root else []
    if not folders:
        images = sum(may_be_image(place / file) for file in files)
        raise InputError(
            f"{name} has no class folders, {images} images lie directly in it; expected {LAYOUT}"
        )
    _check_classes(place, folders)
    splits = _splits(place, folders, name)
    if splits:
        found, more, said = _divided(root, splits, name)
        rest = sorted(set(folders) - {path.name for path in splits.values()})
        if rest:
            said.append(f"{name}: no splits, and left out: {_list(rest)}")
        return Layout(folders=found, ignored=tuple(ignored + more), remarks=(*remarks, *said))
    inside = {folder: entries(place / folder)[0] for folder in folders}
    if _is_split_in_each(inside):
        turned = _turned(place, inside)
        for split in turned.values():
            _check_parts(split, name)
        return Layout(
            folders=turned,
            ignored=tuple(ignored),
            remarks=(
                *remarks,
                f"{name}: each class has its splits, as {folders[0]}/: {_list(inside[folders[0]])}",
            ),
        )
    divided = [folder for folder, within in inside.items() if _has_splits(within)]
    if divided:
        splits_of_one = f"splits {_list(inside[divided[0]])} in each, as in {divided[0]}/"
        raise _unclear(name, f"classes {_list(folders)}", splits_of_one)
    flat = {folder: place / folder for folder in folders}
    _check_parts(flat, name)
    return Layout(
        folders={"all": flat},
        ignored=tuple(ignored),
        remarks=tuple(remarks),
    )


def _check_classes(place: Path, folders: Iterable[str]) -> None:
    """Raise `InputError` where ``folders`` are images and annotations instead of classes."""
    if found := drawn_on(folders):
        images, marks = found
        raise InputError(
            f"{place}: {images}/ and {marks}/ are laid out for detection or segmentation; expected "
            f"{LAYOUT}; give {place / images} if its folders are the classes"
        )


def _enter(root: Path, place: Path, *, classes: Collection[str] = ()) -> tuple[Path, list[str]]:
    """Go down while one folder holds everything and is neither a split nor of the ``classes``.

    Returns:
        Where that ends, and the files on the way, relative to ``root``.
    """
    passed: list[str] = []
    for _ in range(_MOST_AROUND):
        folders, files = entries(place)
        if len(folders) != 1 or any(may_be_image(place / file) for file in files):
            break
        inner = place / folders[0]
        within = entries(inner)[0]
        is_split = place == root and split_of(inner.name) and not any(map(split_of, within))
        is_class = not within and inner.name != place.name  # test/test/1.jpg has no labels
        if is_class or is_split or folded(inner.name) in classes:
            break
        passed += _relative(root, place, files)
        place = inner
    return place, passed


def _splits(place: Path, folders: list[str], name: str) -> dict[str, Path]:
    """Return the folders that are splits; none where the set is flat.

    Raises:
        InputError: that is not clear.
    """
    named = splits_among(folders)
    if not named:
        return {}
    has_classes = {folder: bool(entries(place / folder)[0]) for folder in named}
    others = [folder for folder in folders if folder not in named]
    splits: dict[str, Path] = {}
    for folder, split in named.items():
        if split in splits:
            raise InputError(
                f"{name}: {splits[split].name}/ and {folder}/ both mean {split}; "
                "rename or join them"
            )
        splits[split] = place / folder
    looks = _list(named)
    if not any(has_classes.values()):
        if others and list(splits) == ["train"]:  # of vehicles, say
            return {}
        table = next(filter(None, (_table(path) for path in splits.values())), None)
        if table is not None:
            raise InputError(f"{name}: {looks} have no folders of classes; give the list {table}")
        raise _unclear(
            name, f"classes {_list(folders)}", f"splits {looks} without folders of classes"
        )
    images = [folder for folder in others if _holds_images(place / folder)]
    if images:
        raise _unclear(name, f"classes {_list(folders)}", f"splits {looks}")
    if "train" not in splits:
        raise InputError(f"{name} has {looks}, but no train/; expected {LAYOUT}")
    return splits


def _unclear(name: str, first: str, second: str) -> InputError:
    return InputError(
        f"{name} could mean either: {first}, or {second}; rename or move folders so that it is "
        f"{LAYOUT}"
    )


def _divided(
    root: Path, splits: Mapping[str, Path], name: str
) -> tuple[dict[str, dict[str, Path]], list[str], list[str]]:
    """Return the classes' folders by split, files beside them, and remarks."""
    ignored: list[str] = []
    remarks: list[str] = []
    said = [f"{path.name}/ is {split}" for split, path in splits.items() if path.name != split]
    found: dict[str, dict[str, Path]] = {}
    for split in ("train", "val", "test"):
        if split not in splits:
            continue
        known = {folded(class_id) for class_id in found.get("train", ())}
        place, passed = _enter(root, splits[split], classes=known)
        folders, files = entries(place)
        ignored += [*passed, *_relative(root, place, files)]
        if not folders:
            _refuse_unlabelled(place, split, files, name, remarks)
            continue
        _check_classes(place, folders)
        if place != splits[split]:
            said.append(f"the classes of {split} are in {_shown(root, place)}")
        found[split] = _as_in_train(found.get("train"), place, folders)
    return found, ignored, [f"{name}: {', '.join(said)}", *remarks] if said else remarks


def _refuse_unlabelled(
    place: Path, split: str, files: list[str], name: str, remarks: list[str]
) -> None:
    """Say that a test split has no labels; raise `InputError` for other splits."""
    images = sum(may_be_image(place / file) for file in files)
    if split == "test" and images:
        remarks.append(
            f"{name}: the {images:,} images of {place.name}/ lie in no folder of a class: "
            "they have no labels and are left out"
        )
        return
    if not images:
        raise InputError(f"{place} has no images; expected {LAYOUT}")
    table = _table(place)
    hint = f"; give the list {table}" if table else ""
    raise InputError(
        f"{place} has {images:,} images but no folders of classes; expected {LAYOUT}{hint}"
    )


def _as_in_train(
    train: Mapping[str, Path] | None, place: Path, folders: list[str]
) -> dict[str, Path]:
    """Return the folders of a split by class, maybe spelt in another case than in ``train``.

    Raises:
        InputError: one is no class of ``train``.
    """
    if train is None:
        return {folder: place / folder for folder in folders}
    lower: dict[str, list[str]] = {}
    for class_id in train:
        lower.setdefault(folded(class_id), []).append(class_id)
    found = {}
    for folder in folders:
        same = [folder] if folder in train else lower.get(folded(folder), [])
        if len(same) != 1 or same[0] in found:
            near = nearest(folder, train)
            raise InputError(f"{place / folder}: no class of that name in train/{near}")
        found[same[0]] = place / folder
    return found


def _is_split_in_each(inside: Mapping[str, list[str]]) -> bool:
    """Whether every class folder has its splits in it, as in ``cat/train``."""
    return len(inside) > 1 and all(
        folders and all(map(split_of, folders)) and "train" in map(split_of, folders)
        for folders in inside.values()
    )


def _has_splits(folders: Iterable[str]) -> bool:
    splits = {split_of(folder) for folder in folders}
    return splits == {"train"} or len(splits - {None}) > 1


def _turned(place: Path, inside: Mapping[str, list[str]]) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for class_id, folders in inside.items():
        for folder in folders:
            split = split_of(folder) or ""
            if class_id in found.setdefault(split, {}):
                raise InputError(f"{place / class_id}: two of its folders mean {split}")
            found[split][class_id] = place / class_id / folder
    return found


def _check_parts(classes: Mapping[str, Path], name: str) -> None:
    """Raise `InputError` where folders have some in common: which are the classes?"""
    inside = [set(entries(folder)[0]) for folder in classes.values()]
    for (outer, folder), within in zip(classes.items(), inside, strict=True):
        if len(within & set(classes)) > 1 and not _holds_images(folder):
            raise _unclear(
                name, f"classes {_list(classes)}", f"classes {_list(sorted(within))} in {outer}/"
            )
    shared = set.intersection(*inside)
    if len(inside) < 2 or len(shared) < 2 or any(map(_holds_images, classes.values())):
        return
    raise _unclear(
        name,
        f"classes {_list(classes)}",
        f"classes {_list(sorted(shared))} in {len(inside)} parts",
    )


def _table(folder: Path) -> Path | None:
    tables = (file for file in entries(folder)[1] if file.lower().endswith((".csv", ".tsv")))
    return next((folder / file for file in tables), None)


def _holds_images(folder: Path) -> bool:
    return any(may_be_image(folder / file) for file in entries(folder)[1])


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f"{name}/" for name in names[:4]) + ", ..." * (len(names) > 4)


def _shown(root: Path, place: Path) -> str:
    return f"{place.relative_to(root).as_posix()}/"


def _relative(root: Path, place: Path, files: Iterable[str]) -> list[str]:
    return [(place / file).relative_to(root).as_posix() for file in files]


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

"""Resolve the paths of a list to files inside its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

from mobilette.data.names import entries, has_image_name, split_of, split_within
from mobilette.errors import InputError, shown

_ADDRESS, _DRIVE = re.compile("[A-Za-z][A-Za-z0-9+.-]+://"), re.compile("[A-Za-z]:/")
# Paths looked up to find where they begin; folders to look in.
_LOOKED_FOR, _LOOKED_IN = 20, 1000


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A list row: its line, and its image's path, split, classes and group."""

    line: int
    path: str
    split: str
    classes: tuple[str, ...]
    group: str = ""


def locate(list_path: Path, rows: Sequence[Listed]) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return name and file of each row's image, and remarks on how paths were understood.

    Paths begin in the list's folder or, if no sampled path exists there, in the folder above or in
    one beside the list. A path without a suffix means the image of that stem.

    Raises:
        InputError: a path is an address, lies outside the list's folder, or may mean two files.
    """
    found = _Finder(list_path)
    relative = [found.relative(row) for row in rows]
    remarks = []
    if relative and not found.any(found.root, relative):
        own = found.root.absolute().name
        below = [path.relative_to(own) for path in relative if path.parts[0] == own != str(path)]
        if len(below) == len(relative) and found.any(found.root, below):
            relative = below
            remarks.append(f"the paths begin with {own}/, the list's folder")
    found.bases = found.find_bases(relative)
    if found.bases != [found.root]:
        folders = ", ".join(f"{base.name}/" for base in found.bases[:4])
        remarks.insert(0, f"the images are in {folders}{', ...' * (len(found.bases) > 4)}")
    files = [found.file(row, path) for row, path in zip(rows, relative, strict=True)]
    completed = sum(file.name != path.name for file, path in zip(files, relative, strict=True))
    if completed:
        remarks.append(f"{completed:,} paths have no suffix; files with these names are used")
    return [(file.relative_to(found.root).as_posix(), file) for file in files], remarks


class _Finder:
    """A list's folder, with every subfolder read from disk once.

    ``bases`` are the folders in which the list's paths begin.
    """

    def __init__(self, list_path: Path) -> None:
        self.list_path, self.root = list_path, list_path.parent
        self.bases = [self.root]
        self._real = os.path.realpath(self.root)
        self._is_inside = cache(self._lies_inside)
        self._stems = cache(_images_by_stem)

    def relative(self, row: Listed) -> PurePath:
        """Return a row's path, relative to the list's folder."""
        text = row.path
        if _ADDRESS.match(text):
            raise InputError(
                f"{self._where(row)}: web addresses are not supported; download the images"
            )
        if "\\" in text and not os.path.lexists(self.root / text):
            text = text.replace("\\", "/")
        path = Path(text)
        if path.is_absolute():
            real = Path(self._real)
            bases = [base for base in (self.root.absolute(), real) if path.is_relative_to(base)]
            if not bases:
                path, bases = Path(os.path.realpath(path.parent)) / path.name, [real]
            if not path.is_relative_to(bases[0]):
                raise self._outside(row)
            path = path.relative_to(bases[0])
        elif path.anchor or _DRIVE.match(text):
            raise self._outside(row)
        if ".." in path.parts:
            path = Path(os.path.normpath(path))
        if path.parts[:1] in ((), ("..",)):
            raise self._outside(row)
        return path

    def any(self, base: Path, paths: Sequence[PurePath]) -> bool:
        """Whether any of a sample of ``paths`` exists."""
        step = max(1, len(paths) // _LOOKED_FOR)
        return any(self._names(base, path) for path in paths[::step])

    def find_bases(self, paths: Sequence[PurePath]) -> list[Path]:
        """Return the list's folder, or else the folders beside the list that contain the images."""
        if self.any(self.root, paths):
            return [self.root]
        beside = [self.root / name for name in entries(self.root)[0][:_LOOKED_IN]]
        found = [base for base in beside if self.any(base, paths)]
        stem = self.list_path.stem
        meant = [
            base
            for base in found
            if base.name == stem or split_of(base.name) == split_within(stem) is not None
        ]
        return meant or found or [self.root]

    def file(self, row: Listed, path: PurePath) -> Path:
        """Return a row's file, which need not exist."""
        found = [self.root / path]
        if self.bases != [self.root] or not has_image_name(path.name):
            bases = [base for base in self.bases if self._names(base, path)]
            if len(bases) > 1:
                bases = [base for base in bases if split_of(base.name) == row.split] or bases
            found = [
                base / path.parent / name for base in bases for name in self._names(base, path)
            ] or [self.bases[0] / path]
        if len(found) > 1:
            both = " and ".join(file.relative_to(self.root).as_posix() for file in found[:2])
            raise InputError(f"{self._where(row)} may be {both}; write the full file name")
        file = found[0]
        if not self._is_inside(file.parent) or (_is_link(file) and not self._lies_inside(file)):
            raise InputError(
                f"{self._where(row)} is a link to outside the list's folder {self.root}"
            )
        return file

    def _names(self, base: Path, path: PurePath) -> list[str]:
        """Return the names below ``base`` that match ``path``; empty if there are none."""
        if os.path.lexists(base / path):
            return [path.name]
        return (
            [] if has_image_name(path.name) else self._stems(base / path.parent).get(path.name, [])
        )

    def _lies_inside(self, path: Path) -> bool:
        real = os.path.realpath(path)
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)

    def _where(self, row: Listed) -> str:
        return f"{self.list_path}: line {row.line}: {shown(row.path)}"

    def _outside(self, row: Listed) -> InputError:
        return InputError(
            f"{self._where(row)} is not inside the list's folder {self.root}; put the list above "
            "its images"
        )


def _images_by_stem(folder: Path) -> dict[str, list[str]]:
    """Return the names of a folder's images by stem."""
    found: dict[str, list[str]] = {}
    try:
        for name in sorted(entry.name for entry in os.scandir(folder)):
            if has_image_name(name):
                found.setdefault(PurePath(name).stem, []).append(name)
    except OSError:
        pass
    return found


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # such as a name that is too long: the read will report it
        return False

"""Where the images of a list lie: its paths become files inside its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mobilette.data.layout import entries
from mobilette.data.names import has_image_name, split_of, split_within
from mobilette.errors import InputError, shown

_ADDRESS, _DRIVE = re.compile("[A-Za-z][A-Za-z0-9+.-]+://"), re.compile("[A-Za-z]:/")
# Paths that are looked for, of all, to see where they begin; and folders to look in.
_LOOKED_FOR, _LOOKED_IN = 20, 1000


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A path of a list, with the line and the split of its row."""

    line: int
    path: str
    split: str


@dataclass(kw_only=True)
class Places:
    """The folder of a list, each part of which is asked of the disk once.

    Attributes:
        list_path: the list.
        root: its folder.
        bases: the folders in which its paths begin.
        completed: how many paths were given a suffix.
        from_above: whether the paths begin with the name of the list's folder.
    """

    list_path: Path
    root: Path = field(init=False)
    bases: tuple[Path, ...] = ()
    completed: int = 0
    from_above: bool = False
    _inside: dict[Path, bool] = field(default_factory=dict)
    _stems: dict[Path, dict[str, list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self.list_path.parent

    def locate(self, rows: Sequence[Listed]) -> list[tuple[str, Path]]:
        """Return name and file of the image in each row.

        Paths begin in the list's folder or, if none of those that are looked for is there, in the
        folder above or in one beside the list. One without a suffix means the image so called.

        Raises:
            InputError: a path is an address, lies outside the list's folder, or may mean two files.
        """
        relative = [self._relative(row) for row in rows]
        if relative and not self._any(self.root, relative):
            own = self.root.absolute().name
            below = [
                path.relative_to(own) for path in relative if path.parts[0] == own != str(path)
            ]
            if len(below) == len(relative) and self._any(self.root, below):
                relative, self.from_above = below, True
        self.bases = self._find_bases(relative)
        return [self._place(row, path) for row, path in zip(rows, relative, strict=True)]

    def remarks(self) -> list[str]:
        """Return how the paths were understood, where they are not what is there."""
        said = []
        if self.bases != (self.root,):
            folders = ", ".join(f"{base.name}/" for base in self.bases[:4])
            said.append(f"the images lie in {folders}{', ...' * (len(self.bases) > 4)}")
        if self.from_above:
            said.append(f"the paths begin with {self.root.absolute().name}/, the list's folder")
        if self.completed:
            said.append(f"{self.completed:,} paths have no suffix: files of these names are meant")
        return said

    def _where(self, row: Listed) -> str:
        return f"{self.list_path}: line {row.line}: {shown(row.path)}"

    def _relative(self, row: Listed) -> PurePath:
        text = row.path
        if _ADDRESS.match(text):
            raise InputError(f"{self._where(row)}: addresses are not read; download the images")
        if "\\" in text and not os.path.lexists(self.root / text):
            text = text.replace("\\", "/")
        path = Path(text)
        if path.is_absolute():
            real = Path(os.path.realpath(self.root))
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

    def _outside(self, row: Listed) -> InputError:
        return InputError(
            f"{self._where(row)} is not inside the list's folder {self.root}; put the list above "
            "its images"
        )

    def _any(self, base: Path, paths: Sequence[PurePath]) -> bool:
        """Whether one of some of the ``paths`` is there."""
        step = max(1, len(paths) // _LOOKED_FOR)
        return any(self._names(base, path) for path in paths[::step])

    def _find_bases(self, paths: Sequence[PurePath]) -> tuple[Path, ...]:
        if self._any(self.root, paths):
            return (self.root,)
        beside = [self.root / name for name in entries(self.root)[0][:_LOOKED_IN]]
        found = [base for base in beside if self._any(base, paths)]
        stem = self.list_path.stem
        meant = [
            base
            for base in found
            if base.name == stem or split_of(base.name) == split_within(stem) is not None
        ]
        return tuple(meant or found or [self.root])

    def _names(self, base: Path, path: PurePath) -> list[str]:
        """Return what the file of ``path`` is called below ``base``; none if it is not there."""
        if os.path.lexists(base / path):
            return [path.name]
        if has_image_name(path.name):
            return []
        return self._images(base / path.parent).get(path.name, [])

    def _images(self, folder: Path) -> dict[str, list[str]]:
        """Return the names of the images in a folder by what they are without suffix."""
        if folder not in self._stems:
            found: dict[str, list[str]] = {}
            try:
                for name in sorted(entry.name for entry in os.scandir(folder)):
                    if has_image_name(name):
                        found.setdefault(PurePath(name).stem, []).append(name)
            except OSError:
                pass
            self._stems[folder] = found
        return self._stems[folder]

    def _place(self, row: Listed, path: PurePath) -> tuple[str, Path]:
        if self.bases == (self.root,) and has_image_name(path.name):
            file = self.root / path
            self._check_inside(row, file)
            return path.as_posix(), file
        places = [base for base in self.bases if self._names(base, path)]
        if len(places) > 1:
            places = [base for base in places if split_of(base.name) == row.split] or places
        found = [
            base / path.parent / name for base in places for name in self._names(base, path)
        ] or [self.bases[0] / path]
        if len(found) > 1:
            both = " and ".join(file.relative_to(self.root).as_posix() for file in found[:2])
            raise InputError(f"{self._where(row)} may be {both}; write it as it is called")
        file = found[0]
        self.completed += file.name != path.name
        self._check_inside(row, file)
        return file.relative_to(self.root).as_posix(), file

    def _check_inside(self, row: Listed, file: Path) -> None:
        folder = file.parent
        if folder not in self._inside:
            self._inside[folder] = self._is_inside(folder)
        if not self._inside[folder] or (_is_link(file) and not self._is_inside(file)):
            raise InputError(
                f"{self._where(row)} is a link to outside the list's folder {self.root}"
            )

    def _is_inside(self, path: Path) -> bool:
        real, root = os.path.realpath(path), os.path.realpath(self.root)
        return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # such as a name that is too long: unusable when it is to be read
        return False

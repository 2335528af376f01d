"""Places without the folders above them: what is published tells nothing of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_FOLDERS = re.compile(
    r"""(?:(?<=[\s"'(=,])|^)"""  # where a word begins
    r"""(?:[A-Za-z]:[\\/]|~[\w.-]*/|/|(?:\.\./)+)(?=[^\s/\\])(?:[^\\/\s"']+[\\/])*"""
)


def named(place: str) -> str:
    """Return a place without the folders above it, if it is absolute or leads up by ``..``."""
    if _WINDOWS.match(place):
        return PureWindowsPath(place).name or place
    path = PurePosixPath(place)
    if path.is_absolute() or place.startswith("~") or ".." in path.parts:
        return path.name or place
    return place


def named_in(text: str) -> str:
    """Return a text with the places in it cut to their names."""
    return _FOLDERS.sub("", text if ": " in text else named(text))


def named_values(value: object, *, kept: tuple[str, ...] = ()) -> object:
    """Return JSON values with the places in all texts cut, but under the keys that are ``kept``."""
    if isinstance(value, str):
        return named_in(value)
    if isinstance(value, Mapping):
        return {k: v if k in kept else named_values(v, kept=kept) for k, v in value.items()}
    return [named_values(each, kept=kept) for each in value] if isinstance(value, list) else value

"""The images that a command line asks for: files, folders, patterns, lists and stdin."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from glob import escape, glob, has_magic
from pathlib import Path
from typing import BinaryIO

from mobilette.data.decoding import MAX_BYTES
from mobilette.data.names import is_address
from mobilette.data.sources import list_images
from mobilette.errors import InputError, shown
from mobilette.files import in_words

STDIN, LIST = "-", "@"
# A million paths of a thousand signs.
_LARGEST_LIST = 2**30
_BOM = b"\xef\xbb\xbf"


def asked_images(
    arguments: Sequence[str],
    *,
    stdin: BinaryIO,
    recursive: bool = True,
    on_skipped: Callable[[Path, list[Path]], None] | None = None,
) -> list[str | Path | bytes]:
    """Return the images that ``arguments`` ask for, in their order.

    An argument is a file; a folder, for the images in it (`list_images`); a pattern such as
    ``photos/**/*.jpg``, unless there is a file of that name; ``-``, one image on ``stdin``;
    ``@FILE``, the files and folders that a file lists, one a line or with zero bytes between them;
    ``@-``, such a list on ``stdin``. ``./-`` and ``./@x`` are files.

    Returns:
        Paths, and the content of the image on ``stdin`` as bytes. A file that does not exist is
        among them: reading it tells.

    Raises:
        InputError: ``stdin`` is asked for twice, a list cannot be read or is empty, or there are
            only folders without images.
    """
    if sum(argument in (STDIN, LIST + STDIN) for argument in arguments) > 1:
        raise InputError("stdin can be read once: give one of - and @-")
    inside = partial(list_images, recursive=recursive, on_skipped=on_skipped)
    found: list[str | Path | bytes] = []
    paths: list[str | Path] = []
    for argument in arguments:
        if argument == STDIN:
            found += [*inside(paths), stdin.read(MAX_BYTES + 1)]
            paths = []
        elif argument.startswith(LIST):
            paths += _listed(argument, stdin)
        else:
            paths += _matching(argument)
    return [*found, *inside(paths)]


def _matching(argument: str) -> list[str | Path]:
    """Return the file, or the files that match a pattern, sorted by name."""
    if is_address(argument):
        return [argument]
    if has_magic(argument) and not os.path.lexists(argument):  # takes any name
        return [Path(name) for name in sorted(_found(argument))] or [argument]
    return [Path(argument)]


def _found(pattern: str) -> set[str]:
    """Return what matches; ``**`` enters no folder by a link, which may lead round in a circle."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return set(glob(pattern))  # noqa: PTH207
    at = parts.index("**")
    found = set[str]()
    for top in glob(str(Path(*parts[:at]))):  # noqa: PTH207
        for folder, inside, _ in os.walk(top):
            inside[:] = [name for name in inside if not name.startswith(".")]
            found |= _found(str(Path(escape(folder), *(parts[at + 1 :] or ("*",)))))
    return {name for name in found if not (os.path.islink(name) and os.path.isdir(name))}  # noqa: PTH112, PTH114


def _listed(argument: str, stdin: BinaryIO) -> list[str | Path]:
    """Return the paths in the list ``@FILE`` or ``@-``."""
    name = argument.removeprefix(LIST)
    try:
        if name == STDIN:
            content = stdin.read(_LARGEST_LIST + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_LARGEST_LIST + 1)
    except (OSError, ValueError) as error:
        reason = in_words(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"{shown(argument)}: the list cannot be read ({reason})") from error
    if len(content) > _LARGEST_LIST:
        raise InputError(f"{shown(argument)}: a list of more than {_LARGEST_LIST:,} bytes")
    content = content.removeprefix(_BOM)
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths: list[str | Path] = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise InputError(f"{shown(argument)}: no paths in the list; expected one a line")
    return paths

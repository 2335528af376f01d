"""Reading files that may be hostile, and writing files in one step."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mobilette.errors import InputError
from mobilette.records import parse

T = TypeVar("T")

LARGEST_RECORD = 32 * 2**20
LARGEST_FILE = 4 * 2**30
# Full-width signs begin a formula where keyboards have them.
_FORMULA = (*"=+-@\t\r\uff1d\uff0b\uff0d\uff20", "'")
_MARK = "'"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def cache_root() -> Path:
    """Return the cache folder, ``MOBILETTE_CACHE`` or the system's; it need not exist.

    Raises:
        InputError: it is in the home directory, and this user has none.
    """
    own = os.environ.get("MOBILETTE_CACHE")
    try:
        if own:
            return Path(own).expanduser().absolute()
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # of pathlib, where neither HOME nor the users' list has one
        raise InputError("no home directory; MOBILETTE_CACHE can name a folder") from error
    return base / "mobilette"


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; unlike `Path.is_file`, false for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_file(path: Path, *, limit: int = LARGEST_FILE) -> int:
    """Return the size of the file ``path`` in bytes.

    Raises:
        InputError: it is missing, not a file, or larger than ``limit`` bytes.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: not a file")
    except OSError as error:
        raise InputError(f"{path}: {in_words(error)}") from error
    if size > limit:
        raise InputError(f"{path}: {size:,} bytes, more than the {limit:,} allowed")
    return size


def read_bytes(path: Path, *, limit: int = LARGEST_FILE) -> bytes:
    """Return the content of ``path``, its size checked before it is read.

    Raises:
        InputError: it is missing, not a file, unreadable, or larger than ``limit`` bytes.
    """
    return read_head(path, -1, limit=limit)


def read_head(path: Path, count: int, *, limit: int = LARGEST_FILE) -> bytes:
    """Return the first ``count`` bytes of ``path``, or all if it has fewer.

    Raises:
        InputError: as for `read_bytes`.
    """
    check_file(path, limit=limit)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise InputError(f"{path}: {in_words(error)}") from error


def read_json(path: Path) -> object:
    """Return the JSON value in ``path``.

    Raises:
        InputError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(read_bytes(path, limit=LARGEST_RECORD))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON ({error})") from error


def read_record(path: Path, kind: type[T]) -> T:
    """Return the ``kind`` (a dataclass) that the JSON file ``path`` holds.

    Raises:
        InputError: it cannot be read, or a field is unknown, missing or of the wrong type.
    """
    return parse(kind, read_json(path), where=str(path))


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step: the old file or the new one, never a part.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    with new_file(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes it when the block ends without an error.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written ({in_words(error)})") from error
        raise


def check_new_file(path: Path, *, force: bool) -> None:
    """Raise `InputError` if the file ``path`` cannot be written, or exists without ``force``."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file")
    if path.exists() and not force:
        raise InputError(f"{path}: exists; give another --out, or --force to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written ({path.parent} is not writable)")


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_bytes` has left in ``folder`` where it was killed."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 in one step, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON in one step, as `write_bytes` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def guarded(cell: str) -> str:
    """Return a cell of a CSV file that no spreadsheet takes for a formula, as a name may look.

    An apostrophe precedes what would begin one, and an apostrophe, so that what is read without
    the first one is the text.
    """
    return _MARK + cell if cell.startswith(_FORMULA) else cell


def unguarded(cell: str) -> str:
    """Return the text of a `guarded` cell."""
    return cell.removeprefix(_MARK)


def in_words(error: OSError) -> str:
    """Return the reason in a few words."""
    return (error.strerror or str(error)).lower()

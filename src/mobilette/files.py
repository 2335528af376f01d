"""Reading files that may be hostile, and writing files that are never half there."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mobilette.errors import InputError
from mobilette.records import parse

T = TypeVar("T")

LARGEST_RECORD = 64 * 2**20
LARGEST_FILE = 4 * 2**30


def cache_root() -> Path:
    """Return the folder for what can be made or fetched again; it need not exist.

    That is ``MOBILETTE_CACHE``, or else ``mobilette`` in the system's place for caches.
    """
    if own := os.environ.get("MOBILETTE_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mobilette"


def check_file(path: Path, *, limit: int = LARGEST_FILE) -> int:
    """Return the size of the file ``path`` in bytes.

    Raises:
        InputError: it is missing, not a file, or larger than ``limit`` bytes.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: a file is expected here")
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from error
    if size > limit:
        raise InputError(f"{path}: {size:,} bytes, more than the {limit:,} expected at most")
    return size


def read_bytes(path: Path, *, limit: int = LARGEST_FILE) -> bytes:
    """Return the content of ``path``, its size checked before it is read.

    Raises:
        InputError: it is missing, not a file, unreadable, or larger than ``limit`` bytes.
    """
    check_file(path, limit=limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from error


def read_head(path: Path, count: int) -> bytes:
    """Return the first ``count`` bytes of ``path``, or all if it has fewer.

    Raises:
        InputError: it is missing, not a file or unreadable.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from error


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written ({_reason(error)})") from error
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_bytes` has left in ``folder`` where it was killed."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 in one step, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON in one step, as `write_bytes` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")


@contextmanager
def new_directory(
    path: Path, *, holds: str, force: bool = False, source: Path | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends without an error.

    An existing ``path`` is kept until then and refused unless ``force``; and even then unless it
    is empty or an older one of the same kind.

    Args:
        path: where the folder will be.
        holds: a file that every folder of this kind has.
        force: replace an older one.
        source: what the content is made from, which must not lie inside ``path``.

    Raises:
        InputError: ``path`` exists, or cannot be written; nothing is left behind.
    """
    check_new(path, holds=holds, force=force)
    if source is not None and path.resolve() in (source.resolve(), *source.resolve().parents):
        raise InputError(f"{path}: {source} lies in it and would be replaced; give another --out")
    made = make_parents(path)
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / "old")
            try:
                temporary.replace(path)
            except OSError:
                (old / "old").replace(path)
                raise
            finally:
                shutil.rmtree(old)
        else:
            temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written ({_reason(error)})") from error
        raise


def check_new(path: Path, *, holds: str, force: bool) -> None:
    """Raise `InputError` if ``path`` is not to be replaced, not of this kind or not writable."""
    if path.exists() and not force:
        raise InputError(f"{path}: exists; give another --out, or --force to replace it")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; a folder is to be written there")
    if path.exists() and not (path / holds).exists() and any(path.iterdir()):
        raise InputError(
            f"{path}: --force replaces only a folder with {holds} in it; this has none"
        )
    above = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not above.is_dir():
        raise InputError(f"{path}: cannot be written ({above} is a file)")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written ({above} is not to be written to)")


def make_directory(path: Path) -> None:
    """Make the folder ``path`` and those above it, unless it is there.

    Raises:
        InputError: it cannot be made, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)})") from error


def make_parents(path: Path) -> list[Path]:
    """Make the folders above ``path``; return those that were made, the deepest first.

    Raises:
        InputError: they cannot be made.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise
                continue  # another process has made it meanwhile
            made.insert(0, folder)
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"{path}: cannot be written ({_reason(error)})") from error
    return made


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # somebody else has put something there meanwhile
            folder.rmdir()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()

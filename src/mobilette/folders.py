"""Folders that one process at a time writes, that appear whole and are replaced in one step.

While a process writes a folder ``NAME``, these are beside it: ``.NAME.lock``, which the system
unlocks when the process ends for any reason; ``.NAME.XXXXXXXX.unfinished``, which becomes ``NAME``;
and, if two folders cannot be exchanged in one step, ``.NAME.XXXXXXXX.replaced``, the old folder.
The next process that claims ``NAME`` restores or removes what a killed process has left.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from mobilette.errors import InputError
from mobilette.files import in_words, remove_unfinished
from mobilette.locks import TakenError, locked
from mobilette.progress import Remark

UNFINISHED, REPLACED = ".unfinished", ".replaced"
# Linux, fcntl.h and linux/fs.h.
_FROM_HERE, _EXCHANGE = -100, 2
_SCRATCH_LOCK = re.compile(r"\.(mobilette-[0-9a-f]{16})\.lock")


class BusyError(InputError):
    """Another process, or thread, writes the folder."""


@contextmanager
def claimed(path: Path, *, remark: Remark | None = None) -> Iterator[None]:
    """Keep other processes and threads from writing the folder ``path``, which need not exist.

    A thread may claim a folder again. What a dead process has left of ``path`` is cleaned up first.

    Args:
        path: the folder.
        remark: called with a line for the user if the file system has no locks.

    Raises:
        BusyError: another process, or thread, writes it.
        InputError: the folders above it cannot be made.
    """
    made = make_parents(path)
    final = path.resolve()
    try:
        with ExitStack() as locks:
            try:
                held = locks.enter_context(locked(_lock_file(final)))
            except TakenError as error:
                raise BusyError(
                    f"{path}: {error.holder} is writing it; wait until it ends, or end it"
                ) from None
            if held == "now":
                _recover(final)
            elif held == "not" and remark is not None:
                remark(
                    f"{path}: cannot be locked here: do not start a second process that writes it"
                )
            yield
    finally:
        _remove_empty(made)


@contextmanager
def claimed_free(path: Path) -> Iterator[Path]:
    """Claim ``path`` if it is free, else the first free one of ``path-2``, ``path-3``, …; yield it.

    Raises:
        InputError: the folders above it cannot be made.
    """
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    for candidate in chain([path], numbered):
        with ExitStack() as claim:
            if candidate.exists():
                continue
            try:
                claim.enter_context(claimed(candidate))
            except BusyError:
                continue
            if candidate.exists():  # another process was faster
                continue
            yield candidate
            return


def restore(path: Path) -> None:
    """Restore the folder ``path`` if a process was killed while replacing it."""
    if not path.exists() and any(_left(path.resolve(), REPLACED)):
        with suppress(InputError), claimed(path):
            pass


@contextmanager
def new_directory(
    path: Path, *, holds: str, force: bool = False, source: Path | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends without an error.

    Args:
        path: where the folder will be.
        holds: a file that every folder of this kind contains.
        force: replace an existing folder if it is empty or of this kind.
        source: what the content is made from, which must not be inside ``path``.

    Raises:
        InputError: ``path`` exists, another process writes it, or it cannot be written; nothing is
            left behind.
    """
    check_new(path, holds=holds, force=force)
    if source is not None and path.resolve() in (source.resolve(), *source.resolve().parents):
        raise InputError(f"{path}: {source} lies in it and would be replaced; give another --out")
    with claimed(path):
        check_new(path, holds=holds, force=force)  # it may have come, or come back, meanwhile
        final = path.resolve()
        for litter in _left(final, ""):  # as earlier versions called what was unfinished
            if not (litter / holds).exists():
                shutil.rmtree(litter, ignore_errors=True)
        temporary = None
        try:
            made = tempfile.mkdtemp(prefix=f".{final.name}.", suffix=UNFINISHED, dir=final.parent)
            temporary = Path(made)
            temporary.chmod(0o755)
            yield temporary
            _put(temporary, final)
        except BaseException as error:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise _unwritable(path, error) from error
            raise


def check_new(path: Path, *, holds: str, force: bool) -> None:
    """Raise `InputError` if ``path`` must not be replaced, is of another kind or not writable."""
    if path.exists() and not force:
        raise InputError(f"{path}: exists; give another --out, or --force to replace it")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file, not a folder")
    if path.exists() and not (path / holds).exists() and any(path.iterdir()):
        raise InputError(f"{path}: --force only replaces a folder that contains {holds}")
    above = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not above.is_dir():
        raise InputError(f"{path}: cannot be written ({above} is a file)")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written ({above} is not writable)")


def make_directory(path: Path) -> None:
    """Make the folder ``path`` and those above it, unless it is there.

    Raises:
        InputError: it cannot be made, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def make_parents(path: Path) -> list[Path]:
    """Make the folders above ``path``; return those that were made, the deepest first.

    Raises:
        InputError: they cannot be made.
    """
    made: list[Path] = []
    try:
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise
                continue  # another process has made it meanwhile
            made.insert(0, folder)
    except OSError as error:
        _remove_empty(made)
        raise _unwritable(path, error) from error
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written ({path.parent} is a file)")
    return made


@contextmanager
def scratch(above: Path | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder that is removed after the block.

    It is locked while it exists. Folders whose process was killed are removed first.

    Args:
        above: the folder to make it in, by default the system's for temporary files.

    Raises:
        InputError: it cannot be made.
    """
    with ExitStack() as stack:
        folder = None
        try:
            above = above or Path(tempfile.gettempdir())
            sweep(above)
            while folder is None:  # `sweep` may take the new lock for a dead one
                name = above / f"mobilette-{secrets.token_hex(8)}"
                with suppress(TakenError):
                    stack.enter_context(locked(name.with_name(f".{name.name}.lock")))
                    folder = name
            folder.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        except OSError as error:
            raise _unwritable(
                above or "temporary files (TMPDIR names a folder for them)", error
            ) from error
        yield folder


def sweep(above: Path) -> None:
    """Remove the folders that `scratch` made in ``above`` and whose process is dead."""
    for file in list(above.iterdir()):
        if (name := _SCRATCH_LOCK.fullmatch(file.name)) is None:
            continue
        with suppress(TakenError), locked(file, again=False) as held:
            if held == "now":
                shutil.rmtree(file.with_name(name[1]), ignore_errors=True)


def _lock_file(path: Path) -> Path:
    """Return the lock file of ``path``, inside it if a container sees only this folder."""
    mounted = os.path.ismount(path)
    if path.is_dir() and (mounted or not os.access(path.parent, os.W_OK | os.X_OK)):
        return path / ".lock"
    return path.with_name(f".{path.name}.lock")


def _recover(path: Path) -> None:
    """Clean up what a dead process has left of ``path``."""
    for old in _left(path, REPLACED):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            with suppress(OSError):
                old.replace(path)
    for unfinished in _left(path, UNFINISHED):
        shutil.rmtree(unfinished, ignore_errors=True)
    remove_unfinished(path)


def _left(path: Path, suffix: str) -> list[Path]:
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(suffix)}")
    try:
        return [each for each in path.parent.iterdir() if name.fullmatch(each.name)]
    except OSError:
        return []


def _put(new: Path, path: Path) -> None:
    """Make ``new`` the folder ``path``; what was there is removed.

    Where the system cannot exchange two folders, a process that is killed in between leaves
    ``path`` under the name that `_recover` knows.
    """
    if not path.exists():
        new.replace(path)
        return
    if _exchanged(new, path):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = new.with_suffix(REPLACED)
    path.replace(old)
    try:
        new.replace(path)
    except BaseException:
        if not path.exists():
            old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Give two folders each other's name in one step; return whether the system could."""
    if sys.platform != "linux":
        return False
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(exchange(_FROM_HERE, names[0], _FROM_HERE, names[1], _EXCHANGE) == 0)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # somebody else has put something there meanwhile
            folder.rmdir()


def _unwritable(path: Path | str, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({in_words(error)})")

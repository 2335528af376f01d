"""Temporary folders that also go when their process was killed: with the next one."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mobilette.errors import InputError
from mobilette.files import in_words
from mobilette.locks import TakenError, locked

_LOCK = re.compile(r"\.(mobilette-[0-9a-f]{16})\.lock")


@contextmanager
def scratch(above: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder, in the system's place for temporary ones, that goes with the block.

    It is locked as long as it is there. Those whose lock nobody holds any more are removed first.

    Args:
        above: where it lies instead.

    Raises:
        InputError: there is no such place.
    """
    with ExitStack() as stack:
        folder = None
        try:
            above = above or Path(tempfile.gettempdir())
            sweep(above)
            while folder is None:
                folder = _made(above, stack)
        except OSError as error:
            where = above or "temporary files (TMPDIR names a folder for them)"
            raise InputError(f"{where}: cannot be written ({in_words(error)})") from error
        yield folder


def _made(above: Path, stack: ExitStack) -> Path | None:
    """Return a new folder that goes with ``stack``; ``None`` if `sweep` took it for a dead one."""
    folder = above / f"mobilette-{secrets.token_hex(8)}"
    try:
        stack.enter_context(locked(_lock_file(folder)))
    except TakenError:
        return None
    folder.mkdir(mode=0o700)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep(above: Path) -> None:
    """Remove the folders that `scratch` made in ``above`` and whose process is dead."""
    for file in list(above.iterdir()):
        if (name := _LOCK.fullmatch(file.name)) is None:
            continue
        with suppress(TakenError), locked(file, again=False) as held:
            if held == "now":
                shutil.rmtree(file.with_name(name[1]), ignore_errors=True)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")

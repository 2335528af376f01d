"""Packages that are no dependency of everybody: each is imported where it is used, through here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mobilette.errors import InputError


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Import packages of ``extra`` inside; where they are missing, say what to install.

    Args:
        extra: one of pyproject.toml's optional dependencies.
        what: what they are needed for, such as "export to openvino".

    Raises:
        InputError: a package cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        reason = f"{error.name} is missing" if missing else f"{error}"
        raise InputError(f"{what}: {reason}; pip install 'mobilette[{extra}]' brings it") from error

"""Packages that are no dependency of everybody: each is imported where it is used, through here."""

from __future__ import annotations

import sys
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


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Import others inside as if ``package`` was not installed.

    For packages that are optional to those others and unwanted here: importing ``openvino`` reports
    itself to a web server through ``openvino_telemetry`` wherever that is installed. An import that
    was made before, elsewhere, is left as it is.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]

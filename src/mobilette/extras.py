"""Packages that are no dependency of everybody: each is imported where it is used, through here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mobilette.errors import InputError

ORT_REPORTS = "ORT_DISABLE_TELEMETRY"


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
def reports_off() -> Iterator[None]:
    """Import onnxruntime inside: it starts nothing that reports to a web server.

    The thread that would do so also keeps processes that are forked afterwards from ending. Who has
    set ``ORT_DISABLE_TELEMETRY``, or imported onnxruntime before, has decided otherwise.
    """
    if ORT_REPORTS in os.environ:
        yield
        return
    os.environ[ORT_REPORTS] = "1"
    try:
        yield
    finally:
        os.environ.pop(ORT_REPORTS, None)


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
        sys.modules.pop(package, None)  # another thread may have been here

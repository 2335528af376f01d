"""Optional packages: importing them, and their versions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, packages_distributions, version

import mobilette
from mobilette.errors import InputError

ORT_REPORTS = "ORT_DISABLE_TELEMETRY"


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Import packages of ``extra`` inside; if one is missing, say what to install.

    Args:
        extra: one of pyproject.toml's optional dependencies.
        what: what needs them, such as "export to openvino".

    Raises:
        InputError: a package cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        reason = f"{error.name} is missing" if missing else f"{error}"
        raise InputError(
            f"{what}: {reason}; install it with pip install 'mobilette[{extra}]'"
        ) from error


@contextmanager
def reports_off() -> Iterator[None]:
    """Import onnxruntime inside without the thread that reports to a web server.

    That thread also keeps processes that are forked afterwards from ending. Nothing changes if
    ``ORT_DISABLE_TELEMETRY`` is set or onnxruntime was imported before.
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
    """Import other packages inside as if ``package`` was not installed.

    For example, ``openvino`` reports its import to a web server through ``openvino_telemetry`` if
    that is installed. An earlier import of ``package`` is left as it is.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(package, None)  # another thread may have been here


def version_of(package: str) -> str:
    """Return the version of ``package``, or of another package that provides its module.

    For example, ``onnxruntime`` may come from ``onnxruntime-gpu``. The version of ``mobilette`` is
    that of the running source, installed or not.

    Raises:
        PackageNotFoundError: the version is unknown.
    """
    if package == "mobilette":
        return mobilette.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        for other in packages_distributions().get(package.replace("-", "_"), ()):
            return version(other)
        raise


def version_or_unknown(package: str) -> str:
    """Return the version of ``package``, or "unknown"."""
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "unknown"

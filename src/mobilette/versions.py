"""Versions of packages, also of those that are there without having been installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, packages_distributions, version

import mobilette


def version_of(package: str) -> str:
    """Return the version of ``package``, or of what is installed in its place.

    Mobilette's own is that of the source that runs, installed or not. A module may come from
    another package: ``onnxruntime`` from ``onnxruntime-gpu``.

    Raises:
        PackageNotFoundError: nothing says which version there is.
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
    """Return the version of ``package`` for a record of what was used, which no gap prevents."""
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "unknown"

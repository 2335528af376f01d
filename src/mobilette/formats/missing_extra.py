"""The error for a reader whose package is not installed."""

from __future__ import annotations

from mobilette.errors import InputError


def missing_extra(package: str) -> InputError:
    """Return the error for a file that needs ``package``, part of the extra ``weights``."""
    return InputError(f"{package} is needed to read it; pip install 'mobilette[weights]' brings it")

"""The answer where a reader's package is not installed."""

from __future__ import annotations

from pathlib import Path

from mobilette.errors import InputError


def missing_extra(path: Path, package: str) -> InputError:
    """Return the error for a file that needs ``package``, of the extra ``weights``."""
    return InputError(
        f"{path}: {package} is needed to read it; pip install 'mobilette[weights]' brings it"
    )

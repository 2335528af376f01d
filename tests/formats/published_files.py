"""The published files and images of ../shared, or a skip that says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SHARED


def published(name: str) -> Path:
    """Return a published file or folder of weights."""
    return _existing(SHARED / "weights" / name)


def images(name: str) -> Path:
    """Return a folder of real images, or another file of theirs."""
    return _existing(SHARED / "data" / name)


def case(name: str) -> Path:
    """Return a folder of files that went wrong once, with right answers."""
    return _existing(SHARED / "cases" / name)


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"../shared/{path.relative_to(SHARED)} is not there")
    return path

"""Images that several tests of ``mobilette predict`` ask about."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import COLOURS


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of four images, one of them in a folder of its own; it is the current one."""
    for name, colour in (("a", "red"), ("b", "blue"), ("[c]", "green"), ("more/d", "red")):
        file = tmp_path / "photos" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), COLOURS[colour]).save(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"

"""docs/python.md: every call of its tables is run, and its list of names is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import cross_val_score

import mobilette
from docs.public_names import PAGE, with_names
from mobilette.exporters.state_dict import export_state_dict
from mobilette.formats.download import cached_path
from mobilette.formats.published import find_published
from mobilette.model.model import Model, Origin, numbered_classes
from mobilette.nn.network import Network
from tests.conftest import write_images


def calls() -> list[str]:
    """Return the code of the first column of each table, in order."""
    text = PAGE.read_text(encoding="utf-8").partition("## Every public name")[0]
    return re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)


def _write_weights(path: Path) -> None:
    """Write random weights of MobileNet V1 under timm's names."""
    published = find_published("timm/mobilenetv1_100.ra4_e3600_r224_in1k")
    network = Network(published.arch())
    model = Model(
        arch=network.arch,
        weights=network.state_dict(),
        preprocess=published.preprocess,
        classes=numbered_classes(1000),
        origin=Origin(name="mobilenet_v1"),
    )
    written = export_state_dict(model.save(path / "run"), names="timm", out=path / "timm")
    Path("weights.pth").write_bytes(written.read_bytes())
    place = cached_path(published)  # as if it had been downloaded
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(written.read_bytes())


def test_every_call_of_the_tables_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))
    write_images(Path("photos"), 12)
    Path("photo.png").write_bytes(next(Path("photos").glob("*/*.png")).read_bytes())
    _write_weights(tmp_path / "published")
    drawn = np.random.default_rng(0).integers(0, 256, (12, 12, 12, 3), dtype=np.uint8)
    names = {
        "mobilette": mobilette,
        "Image": Image,
        "np": np,
        "Path": Path,
        "cross_val_score": cross_val_score,
        "X": list(drawn),
        "y": ["cat", "dog"] * 6,
    }
    assert len(calls()) > 30
    for call in calls():
        exec(call, names)


def test_the_list_of_public_names_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_names(page) == page, "python -m docs.public_names writes it anew"

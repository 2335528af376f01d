"""Sets of images by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilette.data.digests import NONE, Digests
from mobilette.data.images import LabelledImage
from mobilette.errors import InputError

SHA = st.integers(0, 2**20).map(lambda n: hashlib.sha256(str(n).encode()).hexdigest())


def in_memory(count: int) -> list[LabelledImage]:
    pixels = np.zeros((2, 2), np.uint8)
    return [LabelledImage(name=str(n), label=0, content=pixels) for n in range(count)]


@settings(max_examples=60, deadline=None)
@given(known=st.lists(SHA), others=st.lists(SHA), more=st.lists(SHA))
def test_a_set_is_a_set(known: list[str], others: list[str], more: list[str]) -> None:
    found = Digests.of(known, "decoded pixels") | Digests.of(more, "files")
    assert len(found) == len(set(known)) + len(set(more))
    assert Digests.from_json(found.to_json(), where="x").to_json() == found.to_json()
    asked = [*others, *known]
    there, matched = Digests.of(known, "decoded pixels").among(
        in_memory(len(asked)), asked, "decoded pixels"
    )
    assert there.tolist() == [digest in known for digest in asked]
    assert matched.to_json() == Digests.of(known, "decoded pixels").to_json()
    assert not NONE.among(in_memory(len(asked)), asked, "files")[0].any()


def test_an_image_is_found_by_its_file_and_by_its_pixels(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for name in ("a.png", "b.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
    Image.fromarray(pixels[::-1]).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"broken")
    names = ("a.png", "b.bmp", "c.png", "d.png")
    images = [LabelledImage(name=n, label=0, content=tmp_path / n) for n in names]
    files = [hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in names]
    of_pixels = hashlib.sha256(b"RGB 4 4 " + pixels.tobytes()).hexdigest()
    by_file, by_pixels = Digests.of(files[:1], "files"), Digests.of([of_pixels], "decoded pixels")
    for own in (files, ["0" * 64] * 4):  # the second: not what is recorded
        kind = "files" if own is files else "names and sizes"
        assert by_file.among(images, own, kind)[0].tolist() == [True, False, False, False]  # type: ignore[arg-type]
        assert by_pixels.among(images, own, kind)[0].tolist() == [True, True, False, False]  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["abc", "xyzw" * 4, "a" * 24, 7])
def test_damaged_records_are_one_line(text: object) -> None:
    with pytest.raises(InputError, match=r"^dataset.json: files is .*, not 16 hexadecimal digits"):
        Digests.from_json({"files": text}, where="dataset.json")

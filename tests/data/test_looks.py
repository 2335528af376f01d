"""Odd images among ordinary ones, and the pass that looks at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mobilette.data.images import LabelledImage
from mobilette.data.looks import look, odd_looks
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.data.survey import survey
from tests.conftest import write_images
from tests.data.photographs import image_of, photographs

PICTURES = [image_of(pixels) for pixels in photographs(12, 96)]


def levels(image: Image.Image, change: Callable[[NDArray[np.float64]], object]) -> Image.Image:
    changed = np.asarray(change(np.asarray(image).astype(np.float64)))
    return Image.fromarray(np.clip(changed, 0, 255).astype(np.uint8))


ODD: dict[str, Callable[[Image.Image], Image.Image]] = {
    "dark": lambda image: levels(image, lambda pixels: pixels * 0.2),
    "bright": lambda image: levels(image, lambda pixels: 240 + pixels * 0.05),
    "little information": lambda image: Image.new("RGB", image.size, (120, 130, 140)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(5)),
    "odd shape": lambda image: image.resize((190, 48)),
    "odd size": lambda image: image.resize((16, 16)),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_images_are_found(what: str) -> None:
    pictures = [*PICTURES, ODD[what](PICTURES[3])]
    found = odd_looks(np.stack([look(picture) for picture in pictures]))
    assert {odd.index for odd in found} == {12}
    assert what in {odd.what for odd in found}
    assert all(0.5 <= odd.sure <= 1 for odd in found)


def test_sharpness_is_compared_at_the_same_size() -> None:
    """A large photograph of the same scene is no more blurred than a small one."""
    large = [picture.resize((700, 700), Image.Resampling.BICUBIC) for picture in PICTURES[:3]]
    found = odd_looks(np.stack([look(picture) for picture in [*PICTURES, *large]]))
    assert {odd.what for odd in found} <= {"odd size", "blurred"}
    assert look(PICTURES[0].convert("L"))["sharpness"] > 0


def test_no_image_is_no_fault() -> None:
    assert odd_looks(np.empty(0, look(PICTURES[0]).dtype)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_survey_describes_what_the_network_reads(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilette.data.survey._WORTH_PROCESSES", 1)
    monkeypatch.setattr("mobilette.data.survey._BLOCK", 7)
    root = write_images(tmp_path / "set", 5, size=20)
    (root / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    images = [image for some in find_images(root).splits.values() for image in some]
    values = preset("torch")

    def describe(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    found = survey(
        images,
        describe,
        resolution=16,
        preprocess=values,
        reading=Reading(workers=workers, max_unusable=1.0),
    )
    assert list(found.unusable) == [
        next(i for i, image in enumerate(images) if "bro" in image.name)
    ]
    assert len(found.positions) == len(set(found.digests)) == 15
    for row, position in enumerate(found.positions.tolist()):
        picture = images[position].open()
        assert found.looks[row] == look(picture)
        expected = values.geometry(picture, 16)
        assert (found.described[row] == expected.ravel()).all()


def test_images_in_memory_are_surveyed() -> None:
    pixels = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    images = [
        LabelledImage(name=f"digits/{index}", label=0, content=pixels[index]) for index in range(2)
    ]
    found = survey(
        images,
        lambda rows: rows.reshape(len(rows), -1).astype(np.float32),
        resolution=16,
        preprocess=preset("torch"),
        reading=Reading(workers=2),
    )
    assert found.looks["width"].tolist() == [8, 8]

"""Near duplicates: planted ones are found, on generated pictures and on real ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from mobilette.data.duplicates import (
    SIDE,
    duplicate_pairs,
    joined,
    near_duplicate_groups,
    near_duplicates,
    row_thumbnails,
    thumbnail,
)
from tests.data.photographs import image_of, photographs

COUNT = 24
PICTURES = [image_of(pixels) for pixels in photographs(COUNT, 96)]
THUMBNAILS = np.stack([thumbnail(picture) for picture in PICTURES])


def crop(image: Image.Image, side: float, left: float, top: float) -> Image.Image:
    """Cut out ``side`` of both sides; ``left`` and ``top`` are 0 to 1 of what is cut off."""
    width, height = round(image.width * side), round(image.height * side)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))


def jpeg(image: Image.Image, quality: int = 60) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def brighter(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


PLANTED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "centre": lambda image: crop(image, 0.9, 0.5, 0.5),
    "corner": lambda image: crop(image, 0.9, 1, 0),
    "jpeg": jpeg,
    "bright": lambda image: brighter(image, 1.15),
    "dark": lambda image: brighter(image, 0.85),
    "mirror": ImageOps.mirror,
    "small": lambda image: image.resize((40, 40)),
}


def found_among(planted: list[Image.Image]) -> dict[int, str]:
    """Return the kind of the pair of each picture with its planted copy, if it is found."""
    copies = np.stack([thumbnail(picture) for picture in planted])
    pairs = near_duplicates(np.concatenate([THUMBNAILS, copies]))
    return {pair.first: pair.kind for pair in pairs if pair.second == pair.first + COUNT}


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_copies_are_found(planted: str) -> None:
    found = found_among([PLANTED[planted](picture) for picture in PICTURES])
    assert sorted(found) == list(range(COUNT))
    kind = {"mirror": "mirrored", "centre": "cropped", "corner": "cropped"}.get(planted, "altered")
    assert set(found.values()) == {kind}


@settings(max_examples=20)
@given(
    side=st.floats(0.9, 1),
    left=st.floats(0, 1),
    top=st.floats(0, 1),
    factor=st.floats(0.85, 1.15),
    mirrored=st.booleans(),
    quality=st.integers(60, 95),
    index=st.integers(0, COUNT - 1),
)
def test_copies_changed_in_several_ways_are_found(
    side: float, left: float, top: float, factor: float, mirrored: bool, quality: int, index: int
) -> None:
    picture = crop(PICTURES[index], side, left, top)
    changed = jpeg(brighter(ImageOps.mirror(picture) if mirrored else picture, factor), quality)
    pair = np.stack([THUMBNAILS[index], thumbnail(changed)])
    assert near_duplicates(pair)
    assert near_duplicates(pair[::-1])  # whichever comes first


def test_different_pictures_are_not_named() -> None:
    """Noise of photographs' spectrum, of which no two are alike."""
    rng = np.random.default_rng(3)
    orders = np.fft.fftfreq(SIDE) * SIDE
    fall = 1 / np.maximum(np.hypot(orders[:, None], orders), 1)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(2000, SIDE, SIDE))) * fall).real
    pixels = np.clip(128 + 300 * noise, 0, 255).astype(np.uint8)
    assert near_duplicates(pixels) == []


def test_plain_surfaces_are_not_duplicates() -> None:
    grey = np.full((3, SIDE, SIDE), 90, np.uint8)
    grey[1] += 20
    grey[2, 5, 5] += 1
    assert near_duplicates(grey) == []
    assert near_duplicate_groups(grey).tolist() == [0, 1, 2]


def test_a_mirror_image_may_be_another_picture() -> None:
    mirror = np.stack([THUMBNAILS[0], THUMBNAILS[0][:, ::-1]])
    assert near_duplicates(mirror)[0].kind == "mirrored"
    assert near_duplicates(mirror, mirrored=False) == []


def test_groups_hold_what_is_connected() -> None:
    copies = [thumbnail(brighter(picture, 0.9)) for picture in PICTURES[:3]]
    groups = near_duplicate_groups(np.stack([*copies, *THUMBNAILS[:3], THUMBNAILS[1][:, ::-1]]))
    assert groups.tolist() == [0, 1, 2, 0, 1, 2, 1]


def test_copies_are_paired_once() -> None:
    everything = np.stack([THUMBNAILS[0], THUMBNAILS[1], THUMBNAILS[0], THUMBNAILS[0][:, ::-1]])
    pairs = duplicate_pairs(everything, [b"a", b"b", b"a", b"c"])
    assert [(pair.first, pair.second, pair.kind) for pair in pairs] == [
        (0, 2, "same"),
        (0, 3, "mirrored"),
    ]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_groups_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = np.array(pairs or [(0, 0)]).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(10, 10))
    _, component = connected_components(graph, directed=False)
    ours = joined(pairs, count=10)
    assert all(ours <= np.arange(10))
    for group, other in zip(ours, component, strict=True):
        assert ((ours == group) == (component == other)).all()


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = np.stack([thumbnail(PLANTED["corner"](picture)) for picture in PICTURES])
    everything = np.concatenate([THUMBNAILS, copies])
    expected = near_duplicates(everything)
    monkeypatch.setattr("mobilette.data.duplicates._ROWS", 7)
    monkeypatch.setattr("mobilette.data.duplicates._COLUMNS", 11)
    found = near_duplicates(everything)
    assert [(pair.first, pair.second, pair.kind) for pair in found] == [
        (pair.first, pair.second, pair.kind) for pair in expected
    ]


@pytest.mark.parametrize("size", [20, 32, 96])
def test_thumbnails_of_rows_are_those_of_pictures(size: int) -> None:
    pixels = photographs(5, size)
    rows = row_thumbnails(pixels.numpy()).astype(int)
    pictures = np.stack([thumbnail(image_of(each)) for each in pixels])
    assert np.abs(rows - pictures).mean() < 4


@pytest.mark.parametrize(
    "name", ["cifar10-4k/train/cat", "flowers200/rose", "imagenette-small/val"]
)
def test_planted_copies_of_real_pictures(name: str, shared: Path) -> None:
    """99% of each kind is found; ``bench/audit.py`` shows it for whole sets."""
    folder = shared / "data" / name
    files = sorted(file for file in folder.rglob("*") if file.is_file())[:300]
    pictures = [Image.open(file).convert("RGB") for file in files]
    untouched = np.stack([thumbnail(picture) for picture in pictures])
    for planted in ("corner", "jpeg", "bright", "dark", "mirror"):
        copies = np.stack([thumbnail(PLANTED[planted](picture)) for picture in pictures])
        pairs = near_duplicates(np.concatenate([untouched, copies]))
        found = {pair.first for pair in pairs if pair.second == pair.first + len(pictures)}
        assert len(found) >= 0.99 * len(pictures), planted

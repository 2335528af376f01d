"""Each shift against what it says it does: light, lengths and areas measured in its pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.formats import UnusableImage
from mobilette.data.shifts import SHIFTS, STRENGTHS, reduced_to_detail, shifted
from mobilette.errors import InputError

GREY = (128, 128, 128)


def _scene(width: int = 120, height: int = 90) -> Image.Image:
    """Return a picture with slopes, edges and grain."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([40 + x, 60 + y, 90 + (x // 8 + y // 8) % 2 * 70], axis=-1).astype(float)
    pixels += np.random.default_rng(0).normal(0, 10, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _pixels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def _versions(image: Image.Image, shift: str, strength: int) -> list[NDArray[np.int16]]:
    """Return the shift of ``image`` under twenty names: both directions are among them."""
    return [_pixels(shifted(image, shift, strength, name=f"{n}.png")) for n in range(20)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_is_another_picture_of_the_same_size_and_the_worse_the_stronger(shift: str) -> None:
    scene = _scene()
    before, changes = scene.tobytes(), []
    for strength in STRENGTHS:
        found = shifted(scene, shift, strength, name="a/1.jpg")
        assert (found.mode, found.size) == ("RGB", scene.size)
        changes.append(np.abs(_pixels(found) - _pixels(scene)).mean())
    assert 0 < changes[0] < changes[1] < changes[2]
    assert scene.tobytes() == before


@given(
    shift=st.sampled_from(sorted(SHIFTS)),
    strength=st.sampled_from(STRENGTHS),
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    name=st.text(),
)
def test_any_picture_gives_the_same_pixels_again(
    shift: str, strength: int, width: int, height: int, name: str
) -> None:
    scene = _scene(width, height)
    once, again = (shifted(scene, shift, strength, name=name) for _ in range(2))
    assert once.size == (width, height)
    assert once.tobytes() == again.tobytes()


@pytest.mark.parametrize("shift", ["brightness", "motion", "noise", "rotation", "occlusion"])
def test_another_name_gives_other_pixels(shift: str) -> None:
    assert len({version.tobytes() for version in _versions(_scene(), shift, 2)}) > 1


def test_brightness_is_twice_the_light_or_half_of_it() -> None:
    """A stop is a factor of two of the light, of which sRGB 118, 85 and 162 are 18, 9 and 36%."""
    image = Image.new("RGB", (8, 8), (118, 118, 118))
    found = {int(version[0, 0, 0]) for version in _versions(image, "brightness", 2)}
    assert found == {85, 162}


def test_contrast_keeps_the_mean_and_changes_the_spread() -> None:
    image = Image.fromarray(np.tile([100, 140], (8, 4)).astype(np.uint8)).convert("RGB")
    spreads = {(int(v.min()), int(v.max())) for v in _versions(image, "contrast", 2)}
    assert len(spreads) == 2
    for low, high in spreads:
        assert (low + high) / 2 == pytest.approx(120, abs=1)
    assert sorted(high - low for low, high in spreads) == [20, 80]


def test_white_balance_turns_grey_to_blue_and_to_orange() -> None:
    found = {tuple(v[0, 0]) for v in _versions(Image.new("RGB", (4, 4), GREY), "white balance", 3)}
    assert len(found) == 2
    assert all(green == 128 for _, green, _ in found)
    (red, _, blue), (other_red, _, other_blue) = found
    assert (red, blue) == (other_blue, other_red)
    assert abs(red - blue) > 60


@pytest.mark.parametrize("shift", ["blur", "motion", "rotation", "scale", "resolution"])
def test_what_moves_pixels_leaves_an_even_picture_alone(shift: str) -> None:
    image = Image.new("RGB", (50, 30), (10, 200, 90))
    for version in _versions(image, shift, 3):
        assert np.abs(version - _pixels(image)).max() <= 1


def _point(side: int) -> Image.Image:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[side // 2 - 1 : side // 2 + 2, side // 2 - 1 : side // 2 + 2] = 255
    return Image.fromarray(pixels)


def _moments(version: NDArray[np.int16]) -> tuple[float, NDArray[np.float64]]:
    """Return the sum of a picture of a point, and the covariance of the place of its light."""
    light = version[..., 0].astype(float)
    places = np.argwhere(light > 0)
    return light.sum(), np.cov(places.T, aweights=light[light > 0], bias=True)


def test_blur_spreads_a_point_by_its_part_of_the_shorter_side() -> None:
    image = _point(201)
    _, before = _moments(_pixels(image))
    total, after = _moments(_versions(image, "blur", 3)[0])
    assert total == pytest.approx(9 * 255, rel=0.05)
    assert np.sqrt(after[0, 0] - before[0, 0]) == pytest.approx(0.016 * 201, rel=0.1)


def test_motion_spreads_a_point_along_a_line_of_its_length() -> None:
    image = _point(201)
    _, before = _moments(_pixels(image))
    for version in _versions(image, "motion", 3):
        total, after = _moments(version)
        assert total == pytest.approx(9 * 255, rel=0.1)
        short, long = np.linalg.eigvalsh(after - before)
        assert np.sqrt(12 * long) == pytest.approx(0.08 * 201, rel=0.1)
        assert short < 1


def test_noise_has_its_spread() -> None:
    found = _versions(Image.new("RGB", (64, 64), GREY), "noise", 1)[0] - 128
    assert found.std() == pytest.approx(0.04 * 255, rel=0.03)
    assert abs(found.mean()) < 0.5


def test_jpeg_is_pillows() -> None:
    file, scene = io.BytesIO(), _scene()
    scene.save(file, "JPEG", quality=8)
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert (_versions(scene, "jpeg", 3)[0] == expected).all()


def test_rotation_turns_by_its_degrees_both_ways() -> None:
    pixels = np.zeros((101, 101, 3), np.uint8)
    pixels[48:53, 88:93] = 255  # 40 to the right of the middle
    angles = set()
    for version in _versions(Image.fromarray(pixels), "rotation", 3):
        y, x = np.average(np.argwhere(version[..., 0] >= 0), axis=0, weights=version[..., 0].flat)
        angles.add(round(np.degrees(np.arctan2(50 - y, x - 50))))
    assert angles == {-20, 20}


def test_scale_comes_closer_and_goes_away() -> None:
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[64:96, 64:96] = 255
    sides = {
        round(np.sqrt(version[40:120, 40:120, 0].sum() / 255))
        for version in _versions(Image.fromarray(pixels), "scale", 3)
    }
    assert sides == {20, 51}


def test_occlusion_covers_its_part_of_the_area_anywhere() -> None:
    image, places = Image.new("RGB", (100, 60), (255, 0, 0)), set()
    for version in _versions(image, "occlusion", 3):
        covered = (version != _pixels(image)).any(axis=-1)
        assert covered.mean() == pytest.approx(0.2, abs=0.01)
        assert len(np.unique(version[covered])) == 1
        places.add(tuple(np.argwhere(covered)[0]))
    assert len(places) > 10


def test_haze_lets_its_part_through_and_less_at_the_top() -> None:
    black, white = (Image.new("RGB", (40, 100), (v, v, v)) for v in (0, 255))
    dark, light = (_versions(image, "haze", 2)[0] for image in (black, white))
    through = (light - dark)[:, 0, 0] / 255
    assert through[50] == pytest.approx(0.5, abs=0.01)
    assert (np.diff(through) >= -0.005).all()
    assert through[0] < 0.4 < 0.65 < through[-1]
    assert dark.max() > 100


def test_resolution_loses_what_is_finer() -> None:
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[:, ::2] = 255
    for version in _versions(Image.fromarray(stripes), "resolution", 1):
        assert np.ptp(version) <= 1


def test_large_pictures_are_reduced_to_a_shorter_side_of_256_to_511() -> None:
    sizes = [(255, 400), (511, 511), (512, 700), (3000, 4000), (4000, 900), (1, 9000)]
    found = [reduced_to_detail(Image.new("L", size)).size for size in sizes]
    assert found == [(255, 400), (511, 511), (256, 350), (273, 364), (1334, 300), (1, 9000)]
    assert reduced_to_detail(Image.new("L", (3000, 3000)), most=2.9).size == (1500, 1500)
    assert reduced_to_detail(Image.new("L", (600, 600)), most=0.5).size == (600, 600)


@pytest.mark.parametrize(
    ("shift", "strength", "message"),
    [
        ("blurr", 1, "shift 'blurr' is not one of .*; did you mean 'blur'"),
        ("blur", 4, "strength 4 is not between 1 and 3"),
    ],
)
def test_unknown_shifts(shift: str, strength: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shifted(_scene(), shift, strength, name="")


def test_a_picture_longer_than_any_jpeg() -> None:
    with pytest.raises(UnusableImage, match="no JPEG has more than 65,500 pixels on a side"):
        shifted(Image.new("RGB", (65_501, 1)), "jpeg", 1, name="")
    assert shifted(Image.new("RGB", (65_500, 1)), "jpeg", 1, name="").width == 65_500

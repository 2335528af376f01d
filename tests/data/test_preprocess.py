from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilette.data.preprocess import PRESETS, Colour, Interpolation, Preprocess, Resize, preset
from mobilette.errors import InputError
from mobilette.records import parse


def cropped(fraction: float) -> Preprocess:
    return Preprocess(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), crop_fraction=fraction)


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows % 256, columns % 256, (rows + columns) % 256]
    pixels = np.stack(planes, axis=-1).astype(np.uint8)
    return Image.fromarray(pixels if mode == "RGB" else pixels[:, :, 2].copy())


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    resize=st.sampled_from(["crop", "squash", "pad"]),
    crop_fraction=st.sampled_from([1.0, 0.875, 0.3]),
    mode=st.sampled_from(["RGB", "L"]),
    in_channels=st.sampled_from([1, 3]),
)
def test_every_size_gives_the_exact_shape(
    width: int,
    height: int,
    size: tuple[int, int],
    resize: Resize,
    crop_fraction: float,
    mode: str,
    in_channels: int,
) -> None:
    chosen = preset("torch", in_channels=in_channels, resize=resize)
    chosen = Preprocess(
        mean=chosen.mean,
        std=chosen.std,
        colour=chosen.colour,
        resize=resize,
        crop_fraction=crop_fraction,
    )
    pixels = chosen.geometry(gradient(width, height, mode), size)
    assert pixels.shape == (in_channels, *size)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_a_image_of_the_right_size_is_not_touched(resize: Resize) -> None:
    image = gradient(40, 40)
    pixels = preset("torch", resize=resize).geometry(image, 40)
    np.testing.assert_array_equal(pixels, np.asarray(image).transpose(2, 0, 1))


def test_crop_of_a_image_whose_shorter_side_fits_takes_the_centre() -> None:
    image = gradient(100, 40)
    pixels = preset("torch").geometry(image, 40)
    np.testing.assert_array_equal(pixels, np.asarray(image)[:, 30:70].transpose(2, 0, 1))


def test_crop_fraction_resizes_further_than_it_keeps() -> None:
    image = gradient(128, 64)
    pixels = cropped(0.5).geometry(image, 32)
    np.testing.assert_array_equal(pixels, np.asarray(image)[16:48, 48:80].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (96, 99), (99, 96)])
@pytest.mark.parametrize(("resolution", "fraction"), [(224, 0.875), (96, 1.0)])
def test_crop_is_resize_then_centre_crop_as_torchvision_does_it(
    size: tuple[int, int], resolution: int, fraction: float
) -> None:
    image = gradient(*size)
    shorter = round(resolution / fraction)
    longer = int(shorter * max(size) / min(size))
    resized = image.resize(
        (shorter, longer) if size[0] < size[1] else (longer, shorter), Image.Resampling.BILINEAR
    )
    left = round((resized.width - resolution) / 2)
    top = round((resized.height - resolution) / 2)
    expected = np.asarray(resized)[top : top + resolution, left : left + resolution]
    pixels = cropped(fraction).geometry(image, resolution)
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))


def test_squash_changes_the_aspect() -> None:
    image = gradient(60, 20)
    pixels = preset("torch", resize="squash").geometry(image, 30)
    expected = np.asarray(image.resize((30, 30), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))


def by_pillow(image: Image.Image, size: tuple[int, int], resize: str, fraction: float) -> Any:
    """Return what `geometry` should make of an image, in exact fractions of pixels."""
    (height, width), (x, y) = size, image.size
    if resize == "squash":
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    if resize == "pad":
        scale = min(Fraction(width, x), Fraction(height, y))
        inner = max(1, round(x * scale)), max(1, round(y * scale))
        made = Image.new("RGB", (width, height), (1, 2, 3))
        place = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        made.paste(image.resize(inner, Image.Resampling.BILINEAR), place)
        return np.asarray(made)
    tall, wide = (round(side / fraction) for side in size)
    scale = max(Fraction(wide, x), Fraction(tall, y))
    made = image.resize((math.floor(x * scale), math.floor(y * scale)), Image.Resampling.BILINEAR)
    left, top = round((made.width - width) / 2), round((made.height - height) / 2)
    return np.asarray(made)[top : top + height, left : left + width]


@given(
    size=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    image=st.tuples(st.integers(20, 200), st.integers(20, 200)),
    resize=st.sampled_from(["crop", "squash", "pad"]),
    fraction=st.sampled_from([1.0, 0.875, 0.5]),
)
def test_oblong_images_against_pillow(
    size: tuple[int, int], image: tuple[int, int], resize: Resize, fraction: float
) -> None:
    """No part is stretched but by squash; nothing is lost but by crop."""
    pixels = replace(cropped(fraction), resize=resize).geometry(gradient(*image), size)
    expected = by_pillow(gradient(*image), size, resize, fraction)
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(96, 160), (160, 96)])
def test_oblong_images_decoded_at_reduced_scale(resize: Resize, size: tuple[int, int]) -> None:
    """What is decoded smaller must stay large enough in both directions."""
    chosen = preset("torch", resize=resize)
    for width, height in ((1600, 900), (900, 1600), (3000, 200)):
        factor = chosen.shrinking((width, height), size)
        small = gradient(width, height).reduce(max(1, math.floor(factor)))
        pixels = chosen.geometry(small, size, full_size=(width, height))
        assert pixels.shape == (3, *size)
        shown = {"crop": min, "squash": min, "pad": max}[resize]
        assert factor == pytest.approx(shown(width / size[1], height / size[0]))


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_bicubic_images_are_pillows(resize: Resize) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    bicubic = replace(preset("torch", resize=resize), interpolation="bicubic")
    size = {"crop": (30, 20), "squash": (20, 20), "pad": (20, 13)}[resize]
    expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    pixels = bicubic.geometry(image, 20)
    if resize == "crop":
        expected = expected[:, :, 5:25]
    elif resize == "pad":
        pixels = pixels[:, 3:16]
    np.testing.assert_array_equal(pixels, expected)


def test_a_record_from_before_interpolation_is_bilinear() -> None:
    old = {key: value for key, value in asdict(preset("tf")).items() if key != "interpolation"}
    assert parse(Preprocess, old, where="preprocess.json") == preset("tf")
    with pytest.raises(InputError, match="did you mean 'bicubic'"):
        replace(preset("tf"), interpolation=cast("Interpolation", "bicubik"))
    with pytest.raises(
        InputError, match=r"preprocess.json: interpolation is 'nearest', not one of"
    ):
        parse(Preprocess, old | {"interpolation": "nearest"}, where="preprocess.json")


def test_downscaling_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    pixels = preset("raw", in_channels=1).geometry(Image.fromarray(stripes), 16)
    assert abs(int(pixels.min()) - 127) < 24
    assert abs(int(pixels.max()) - 127) < 24


@pytest.mark.parametrize(
    ("name", "fill"),
    [("torch", (124, 116, 104)), ("caffe", (123, 117, 104)), ("tf", (128,) * 3), ("raw", (0,) * 3)],
)
def test_pad_fills_with_the_mean_in_rgb_order(name: str, fill: tuple[int, ...]) -> None:
    image = Image.new("RGB", (20, 10), (255, 0, 255))
    pixels = preset(name, resize="pad").geometry(image, 20)
    np.testing.assert_array_equal(
        pixels[:, 5:15], np.full((3, 10, 20), 255) * [[[1]], [[0]], [[1]]]
    )
    for band in (pixels[:, :5], pixels[:, 15:]):
        np.testing.assert_array_equal(
            band, np.broadcast_to(np.reshape(fill, (3, 1, 1)), (3, 5, 20))
        )


def test_pad_of_grey_fills_with_the_mean() -> None:
    pixels = preset("torch", in_channels=1, resize="pad").geometry(Image.new("L", (4, 8), 9), 8)
    np.testing.assert_array_equal(pixels[0, :, 2:6], np.full((8, 4), 9))
    np.testing.assert_array_equal(pixels[0, :, :2], np.full((8, 2), 114))


def test_colour_order_stays_red_green_blue() -> None:
    image = Image.new("RGB", (8, 8), (10, 20, 30))
    for name in PRESETS:
        assert preset(name).geometry(image, 8)[:, 0, 0].tolist() == [10, 20, 30]


def test_grey_images_are_replicated_and_colours_made_grey() -> None:
    grey = gradient(30, 30, "L")
    pixels = preset("torch").geometry(grey, 20)
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0], pixels[2])
    colour = preset("torch", in_channels=1).geometry(Image.new("RGB", (5, 5), (255, 0, 0)), 5)
    assert abs(int(colour[0, 0, 0]) - 0.299 * 255) <= 1  # ITU-R BT.601 luma


def test_an_extreme_strip_is_not_blown_up() -> None:
    strip = Image.new("L", (40_000_000, 1), 9)  # 64 times that is more than Pillow can hold
    for size in ((64, 64), (16, 256), (256, 16)):
        pixels = preset("torch", in_channels=1).geometry(strip, size)
        np.testing.assert_array_equal(pixels, np.full((1, *size), 9))


def test_imagenet_images_keep_their_subject(shared_data: Path) -> None:
    for path in sorted((shared_data / "imagenet-sample").glob("*.jpg"))[:5]:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        pixels = preset("torch").geometry(image, 64).astype(np.float64)
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = np.asarray(image, np.float64)[top : top + short, left : left + short]
        difference = pixels.mean((1, 2)) - square.mean((0, 1))
        assert abs(difference).max() < 1.5


def test_presets() -> None:
    assert set(PRESETS) == {"torch", "tf", "caffe", "unit", "raw"}
    np.testing.assert_allclose(PRESETS["torch"].mean, np.array([0.485, 0.456, 0.406]) * 255)
    np.testing.assert_allclose(PRESETS["torch"].std, np.array([0.229, 0.224, 0.225]) * 255)
    assert preset("caffe").colour == "bgr"
    assert preset("caffe").mean == (104, 117, 123)
    assert preset("unit").std == (255, 255, 255)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_for_one_channel_are_averages(name: str) -> None:
    grey = preset(name, in_channels=1, resize="pad")
    assert grey.colour == "grey"
    assert grey.resize == "pad"
    assert grey.mean == pytest.approx((np.mean(PRESETS[name].mean),))
    assert grey.std == pytest.approx((np.mean(PRESETS[name].std),))


def test_preset_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'torch'"):
        preset("torhc")
    with pytest.raises(InputError, match="in_channels 4 is not 1 or 3"):
        preset("torch", in_channels=4)


@pytest.mark.parametrize(
    ("mean", "std", "colour", "fraction", "message"),
    [
        ((1.0,), (1.0,) * 3, "rgb", 1.0, "mean has 1 values; 'rgb' needs 3"),
        ((1.0,) * 3, (1.0,), "bgr", 1.0, "std has 1 values"),
        ((1.0,) * 3, (1.0,) * 3, "grey", 1.0, "'grey' needs 1"),
        ((1.0,) * 3, (1.0, 0.0, 1.0), "rgb", 1.0, "std 0.0 is not between"),
        ((1.0,) * 3, (1.0, float("inf"), 1.0), "rgb", 1.0, "std inf is not between"),
        ((float("nan"), 1.0, 1.0), (1.0,) * 3, "rgb", 1.0, "mean nan is not between"),
        ((1.0,) * 3, (1.0,) * 3, "rgb", 0.0, "crop_fraction 0.0"),
        ((1.0,) * 3, (1.0,) * 3, "rgb", 1.1, "crop_fraction 1.1"),
        ((1.0,) * 3, (1.0,) * 3, "gray", 1.0, "colour 'gray' .* did you mean 'grey'"),
    ],
)
def test_impossible_values_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], colour: str, fraction: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess(mean=mean, std=std, colour=cast("Colour", colour), crop_fraction=fraction)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_json_round_trip(name: str) -> None:
    chosen = preset(name, resize="pad")
    text = json.dumps(asdict(chosen), allow_nan=False)
    assert parse(Preprocess, json.loads(text), where="preprocess.json") == chosen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdt": [1]}, "unknown key 'sdt'; did you mean 'std'"),
        ({"mean": "1"}, "mean is '1', not a list"),
        ({"std": [1, True, 1]}, "std.1 is True, not a number"),
        ({"std": [1, -1, 1]}, "std"),
        ({"resize": "stretch"}, "resize is 'stretch', not one of 'crop', 'squash', 'pad'"),
    ],
)
def test_json_errors_name_the_place_and_the_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^run/preprocess.json: {message}"):
        parse(Preprocess, asdict(preset("torch")) | change, where="run/preprocess.json")

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.layers import layers
from mobilette.arch.scale import Settings, make_divisible, resolution_text, scale_truncated
from mobilette.errors import InputError
from mobilette.records import parse


@given(st.floats(0.01, 10_000), st.sampled_from([1, 2, 4, 8, 16]))
def test_make_divisible_rounds_to_the_nearest_but_never_10_percent_below(
    channels: float, divisor: int
) -> None:
    rounded = make_divisible(channels, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * channels
    assert rounded <= max(divisor, channels + divisor)


@pytest.mark.parametrize(("channels", "rounded"), [(33.6, 32), (11.2, 16), (5.6, 8), (44.8, 48)])
def test_make_divisible_as_published(channels: float, rounded: int) -> None:
    assert make_divisible(channels) == rounded


@given(st.integers(1, 4096), st.floats(0.001, 10))
def test_truncation_is_v1s(channels: int, width: float) -> None:
    assert scale_truncated(channels, width) == max(8, math.floor(channels * width))


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf, 10.5])
def test_widths_that_are_none(width: float) -> None:
    with pytest.raises(InputError, match="width_mult .* is not between"):
        Settings(width_mult=width)


@pytest.mark.parametrize("resolution", [5, 0, -224, 15, 5000])
def test_resolutions_that_are_none(resolution: int) -> None:
    with pytest.raises(InputError, match=f"resolution {resolution} is not between 16 and"):
        Settings(resolution=resolution)


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        ((0, 160), "resolution 0 is not between 16 and 4096"),
        ((160, 5000), "resolution 5000 is not between 16 and 4096"),
        ((160,), r"resolution \(160,\) is neither a side, such as 224, nor a height and a width"),
        ((160, 160, 3), "is neither a side"),
        (("a", 3), "resolution 'a' is not a whole number between 16 and"),
        ((160.0, 96), "resolution 160.0 is not a whole number between 16 and"),
        ((True, 96), "resolution True is not a whole number between 16 and"),
        (
            [160, 96],
            r"get_arch: resolution is \[160, 96\], not a whole number or \(height, width\)",
        ),
        ("160x96", r"resolution is '160x96', not a whole number or \(height, width\)"),
        (True, "resolution is True, not a whole number or"),
    ],
)
def test_pairs_that_are_none(resolution: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_arch("mobilenet_v2", resolution=resolution)


def record(resolution: object) -> Any:
    value = get_arch("mobilenet_v2", resolution=(96, 160)).to_json() | {"resolution": resolution}
    return json.loads(json.dumps(value))


def test_a_square_has_one_notation() -> None:
    square = get_arch("mobilenet_v2", resolution=160)
    assert get_arch("mobilenet_v2", resolution=(160, 160)) == square
    assert square.with_resolution((160, 160)) == square
    assert parse(Arch, record([160, 160]), where="arch.json") == square
    assert json.loads(json.dumps(square.to_json()))["resolution"] == 160
    oblong = square.with_resolution((96, 160))
    assert parse(Arch, record([96, 160]), where="arch.json") == oblong
    assert json.loads(json.dumps(oblong.to_json()))["resolution"] == [96, 160]
    assert oblong.hash != square.hash
    assert (oblong.shape, square.shape) == ((3, 96, 160), (3, 160, 160))
    assert [resolution_text(x) for x in (160, (160, 160), (96, 160))] == ["160", "160", "96x160"]


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        ([0, 160], "resolution 0 is not between 16"),
        ([160], r"resolution is \[160\], not a list of 2 values"),
        ([160, 160, 160], r"resolution is .*, not a list of 2 values"),
        ([160.5, 96], "resolution.0 is 160.5, not a whole number"),
        ([160, True], "resolution.1 is True, not a whole number"),
        (True, "resolution is True, not a whole number or a list of 2"),
        (160.0, "resolution is 160.0, not a whole number or a list of 2"),
        ("160x96", "resolution is '160x96', not a whole number or a list of 2"),
        (None, "resolution is None, not a whole number or a list of 2"),
    ],
)
def test_records_of_no_resolution(resolution: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^arch.json: {message}"):
        parse(Arch, record(resolution), where="arch.json")


@given(height=st.integers(16, 300), width=st.integers(16, 300))
def test_the_shorter_side_decides_the_form(height: int, width: int) -> None:
    assert Settings(resolution=(height, width)).is_full == (min(height, width) > 64)


@given(
    name=st.sampled_from(list_models()),
    width=st.floats(0.01, 3),
    resolution=st.integers(16, 256) | st.tuples(st.integers(16, 256), st.integers(16, 256)),
    classes=st.integers(1, 50),
    in_channels=st.integers(1, 5),
)
def test_any_width_resolution_and_classes_give_a_network(
    name: str, width: float, resolution: Any, classes: int, in_channels: int
) -> None:
    settings = Settings(
        width_mult=width, resolution=resolution, num_classes=classes, in_channels=in_channels
    )
    graph = layers(get_arch(name, settings))
    assert graph[-1].shape == (classes,)

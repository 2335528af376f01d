from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.layers import layers
from mobilette.arch.scale import Settings, make_divisible, scale_truncated
from mobilette.errors import InputError


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


@given(
    name=st.sampled_from(list_models()),
    width=st.floats(0.01, 3),
    resolution=st.integers(16, 256),
    classes=st.integers(1, 50),
    in_channels=st.integers(1, 5),
)
def test_any_width_resolution_and_classes_give_a_network(
    name: str, width: float, resolution: int, classes: int, in_channels: int
) -> None:
    settings = Settings(
        width_mult=width, resolution=resolution, num_classes=classes, in_channels=in_channels
    )
    graph = layers(get_arch(name, settings))
    assert graph[-1].shape == (classes,)

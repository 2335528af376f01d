"""Padding in pixels against torch's own 'same', and against the windows it makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.arch.rows import Padding as ConvPadding
from mobilette.formats.graph import NO_PADDING, Padding
from mobilette.formats.padding import conv_padding, pixels

kernels = st.integers(0, 5).map(lambda half: 2 * half + 1)


@given(kernels, st.integers(1, 4), st.integers(12, 300))
def test_same_makes_ceil_of_input_over_stride(kernel: int, stride: int, side: int) -> None:
    top, bottom, left, right = pixels(NO_PADDING, "same", kernel=kernel, stride=stride, side=side)
    assert (side + top + bottom - kernel) // stride + 1 == -(-side // stride)
    assert (top, bottom) == (left, right)
    assert 0 <= bottom - top <= 1


@pytest.mark.parametrize(
    ("before", "padding", "stride", "side", "found"),
    [
        (NO_PADDING, "same", 2, 224, "tf_same"),
        (NO_PADDING, "same", 2, 225, "tf_same"),
        ((0, 1, 0, 1), NO_PADDING, 2, 224, "tf_same"),
        # Keras pads its MobileNet V1 so at every size; at an odd one that is no padding of ours.
        ((0, 1, 0, 1), NO_PADDING, 2, 225, None),
        ((1, 1, 1, 1), NO_PADDING, 2, 224, "symmetric"),
        (NO_PADDING, NO_PADDING, 2, 224, "valid"),
        (NO_PADDING, "same", 1, 224, "symmetric"),
        ((1, 0, 1, 0), NO_PADDING, 2, 224, None),
    ],
)
def test_how_a_convolution_spells_it(
    before: tuple[int, int, int, int],
    padding: Padding,
    stride: int,
    side: int,
    found: ConvPadding | None,
) -> None:
    usual: ConvPadding = "symmetric"
    assert conv_padding(before, padding, kernel=3, stride=stride, side=side, usual=usual) == found

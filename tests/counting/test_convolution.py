"""One convolution, against the numbers of the MobileNet V1 paper's section 3.1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilette.counting.convolution import compare_convolution
from mobilette.errors import InputError


def test_the_example() -> None:
    compared = compare_convolution(kernel=3, in_channels=64, out_channels=128, size=112)
    assert compared.standard_madds == 924_844_032
    assert compared.separable_madds == 109_985_792
    assert round(compared.ratio, 4) == 0.1189


@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    in_channels=st.integers(1, 40),
    out_channels=st.integers(1, 40),
    size=st.integers(1, 33),
    stride=st.integers(1, 3),
)
def test_the_formula_and_a_trace(
    kernel: int, in_channels: int, out_channels: int, size: int, stride: int
) -> None:
    compared = compare_convolution(
        kernel=kernel,
        in_channels=in_channels,
        out_channels=out_channels,
        size=size,
        stride=stride,
    )
    assert compared.ratio == pytest.approx(1 / out_channels + 1 / kernel**2)
    padding = kernel // 2
    standard = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    depthwise = nn.Conv2d(
        in_channels, in_channels, kernel, stride, padding, groups=in_channels, bias=False
    )
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    x = torch.zeros(1, in_channels, size, size)
    with FlopCounterMode(display=False) as counter:
        standard(x)
    assert counter.get_total_flops() == 2 * compared.standard_madds
    with FlopCounterMode(display=False) as counter:
        pointwise(depthwise(x))
    assert counter.get_total_flops() == 2 * compared.separable_madds
    assert compared.standard_params == standard.weight.numel()
    assert compared.depthwise_params == depthwise.weight.numel()
    assert compared.pointwise_params == pointwise.weight.numel()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kernel": 4}, "kernel 4 is even"),
        ({"in_channels": 0}, "input channels 0 is not between 1"),
        ({"out_channels": -1}, "channels -1 is not between 1"),
        ({"size": 0}, "size 0 is not between 1"),
        ({"stride": 0}, "stride 0 is not between 1"),
    ],
)
def test_values_that_no_convolution_has(values: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"kernel": 3, "in_channels": 8, "out_channels": 8, "size": 8}
    with pytest.raises(InputError, match=message):
        compare_convolution(**(good | values))


def test_without_padding_it_is_the_example_of_the_tutorials() -> None:
    """12x12x3 to 8x8x256 by 5x5 kernels: 1,228,800 and 53,952 multiplications."""
    compared = compare_convolution(
        kernel=5, in_channels=3, out_channels=256, size=12, padding="valid"
    )
    assert compared.out_size == 8
    assert (compared.standard_madds, compared.separable_madds) == (1_228_800, 53_952)

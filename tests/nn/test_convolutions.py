"""Pointwise convolutions as matrix products, against PyTorch's convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette.nn import convolutions
from mobilette.nn.convolutions import Conv2d

LAST = torch.channels_last


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_the_convolution(
    shape: tuple[int, ...], channels: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = Conv2d(shape[1], channels, 1, bias=bias)
    exact = nn.Conv2d(shape[1], channels, 1, bias=bias).double()
    exact.load_state_dict(conv.state_dict())
    x = torch.randn(shape).contiguous(memory_format=LAST).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    result, expected = conv(x), exact(exact_x)
    assert result.is_contiguous(memory_format=LAST)
    upstream = torch.randn(expected.shape)
    torch.autograd.backward(result, upstream)
    torch.autograd.backward(expected, upstream.double())
    pairs = [(result, expected), (x.grad, exact_x.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(conv.parameters(), exact.parameters(), strict=True)]
    for mine, theirs in pairs:
        assert mine is not None
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("conv", "products"),
    [
        (Conv2d(16, 8, 1), 1),
        (Conv2d(16, 8, 3, padding=1), 0),
        (Conv2d(16, 8, 1, stride=2), 0),
        (Conv2d(16, 8, 1, padding=1), 0),
        (Conv2d(16, 8, 1, groups=2), 0),
    ],
)
def test_only_pointwise_convolutions_are_products(
    conv: Conv2d, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 16, 6, 6).contiguous(memory_format=LAST)
    assert len(_products(conv, x, monkeypatch)) == products


def test_large_maps_evaluation_and_other_layouts_are_left_to_the_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conv = Conv2d(16, 8, 1)
    x = torch.randn(2, 16, 6, 6)
    assert not _products(conv, x, monkeypatch)
    x = x.contiguous(memory_format=LAST)
    assert not _products(conv, x[:0], monkeypatch)
    assert not _products(copy.deepcopy(conv).eval(), x, monkeypatch)
    monkeypatch.setattr(convolutions, "MATRIX_PIXELS", 2 * 6 * 6 - 1)
    assert not _products(conv, x, monkeypatch)


def _products(conv: Conv2d, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a word for each matrix product that ``conv`` computes."""
    calls: list[str] = []
    linear = nn.functional.linear

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append("product")
        return linear(x, weight, bias)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "linear", counted)
        conv(x)
    return calls

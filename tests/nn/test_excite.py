"""Squeeze-and-excite's product, against PyTorch's layers in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mobilette import create_model
from mobilette.nn.excite import can_excite, excited
from mobilette.nn.layers import GlobalAveragePool, Scale
from mobilette.nn.network import Network
from tests.conftest import needs_compiler
from tests.nn.test_fused_norm import assert_near, pixels

pytestmark = needs_compiler

LAST = torch.channels_last


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_the_layers(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    """The factors depend on the means, as they do in a network."""
    torch.manual_seed(seed)
    map_, upstream = (pixels(*shape, mean=0.5).to(dtype) for _ in range(2))
    weight = torch.rand(shape[1], 1, 1).to(dtype)
    assert can_excite([map_, weight.expand(*shape[:2], 1, 1)], Scale())
    x, w = (each.clone().requires_grad_() for each in (map_, weight))
    result = excited(x, torch.sigmoid(GlobalAveragePool()(x) * w))
    torch.autograd.backward(result, upstream)
    exact_x, exact_w = (each.detach().double().requires_grad_() for each in (map_, weight))
    exact = Scale()(exact_x, torch.sigmoid(GlobalAveragePool()(exact_x) * exact_w))
    exact.backward(upstream.double())
    # A sigmoid of bf16 and the sums of its gradients are rounded, in PyTorch as here.
    part = 1e-5 if dtype is torch.float32 else 0.05
    assert_near(result, exact, part=part)
    # Few terms may cancel, and their rounding stays.
    size, upstream_size = exact_x.detach().abs(), upstream.double().abs()
    of_factors = (size * upstream_size).sum((2, 3), keepdim=True)
    of_pixels = upstream_size + of_factors / size[0, 0].numel()
    assert_near(x.grad, exact_x.grad, part=part, terms=of_pixels)
    of_weight = (of_factors * size.mean((2, 3), keepdim=True)).sum(0)
    assert_near(w.grad, exact_w.grad, part=part, terms=of_weight)


def test_many_pixels_are_summed_in_float32() -> None:
    x = pixels(1, 3, 90, 90).bfloat16().requires_grad_()
    factors = torch.rand(1, 3, 1, 1).bfloat16().requires_grad_()
    upstream = pixels(1, 3, 90, 90, mean=1.0).bfloat16()
    torch.autograd.backward(excited(x, factors), upstream)
    exact = (x.detach().double() * upstream.double()).sum((2, 3), keepdim=True)
    assert_near(factors.grad, exact, part=4e-3)  # half a step of bf16


@pytest.mark.parametrize(
    ("x", "factors"),
    [
        (torch.zeros(0, 4, 2, 2), torch.zeros(0, 4, 1, 1)),
        (torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3)),
        (torch.zeros(2, 4, 3, 3), torch.zeros(1, 4, 1, 1)),
        (torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 1, 1, dtype=torch.bfloat16)),
        (torch.zeros(2, 4, 3, 3, dtype=torch.float64), torch.zeros(2, 4, 1, 1).double()),
    ],
)
def test_others_are_left_to_pytorch(x: Tensor, factors: Tensor) -> None:
    assert not can_excite([x.contiguous(memory_format=LAST), factors], Scale())


def test_one_channel_after_the_other_is_left_to_pytorch() -> None:
    assert not can_excite([torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 1, 1)], Scale())


def _gradients(network: Network, x: Tensor) -> list[Tensor]:
    network.zero_grad()
    torch.manual_seed(1)  # of dropout
    network(x).square().mean().backward()
    return [each.grad.clone() for each in network.parameters() if each.grad is not None]


def test_a_networks_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = create_model("mobilenet_v3_small", num_classes=5, width_mult=0.5, resolution=32)
    network.to(memory_format=LAST).train()  # type: ignore[call-overload]
    network.fused_norms = True
    x = torch.randn(4, 3, 32, 32).contiguous(memory_format=LAST)
    calls: list[str] = []

    def counted(x: Tensor, factors: Tensor) -> Tensor:
        calls.append("excited")
        return excited(x, factors)

    monkeypatch.setattr("mobilette.nn.network.excited", counted)
    mine = _gradients(network, x)
    assert len(calls) == 9  # of its eleven rows (Howard et al. 2019, table 2)
    monkeypatch.setattr("mobilette.nn.network.can_excite", lambda *_: False)
    for one, other in zip(mine, _gradients(network, x), strict=True):
        assert_near(one, other.double(), part=1e-3)

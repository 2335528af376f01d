"""Max pooling, against PyTorch's."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette import create_model
from mobilette.nn.layers import GlobalAveragePool
from mobilette.nn.max_pool import can_pool, max_pooled
from tests.conftest import needs_compiler

pytestmark = needs_compiler

LAST = torch.channels_last


class Case(NamedTuple):
    """A pool and its input's shape."""

    images: int
    channels: int
    rows: int
    columns: int
    kernel: int
    stride: int
    padding: int
    ceil: bool

    def pool(self) -> nn.MaxPool2d:
        return nn.MaxPool2d(self.kernel, self.stride, self.padding, ceil_mode=self.ceil)

    def fits(self) -> bool:
        """Whether it is a pool, and the input has a window."""
        reach = min(self.rows, self.columns) + 2 * self.padding
        return 2 * self.padding <= self.kernel <= reach


cases = st.builds(
    Case,
    images=st.integers(1, 5),
    channels=st.integers(1, 40),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    ceil=st.booleans(),
).filter(Case.fits)


@given(
    case=cases,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    values=st.sampled_from(["different", "equal", "NaN"]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_pytorch(
    case: Case, dtype: torch.dtype, values: str, seed: int
) -> None:
    torch.manual_seed(seed)
    pool = case.pool()
    x = torch.randn(case.images, case.channels, case.rows, case.columns).to(dtype)
    if values == "equal":  # many of them: the first takes the gradient
        x = x.round()
    elif values == "NaN":
        x[torch.rand(x.shape) < 0.1] = torch.nan
    mine = x.contiguous(memory_format=LAST).requires_grad_()
    theirs = x.detach().clone().requires_grad_()
    assert can_pool(mine, pool)
    result, exact = max_pooled(mine, pool), pool(theirs)
    assert result.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(result, exact, rtol=0, atol=0, equal_nan=True)
    gradient = torch.randint(-8, 9, exact.shape).to(dtype)  # whole, so that sums are exact
    torch.autograd.backward(result, gradient)
    torch.autograd.backward(exact, gradient)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0)


def test_the_number_of_threads_changes_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 24, 17, 19).contiguous(memory_format=LAST)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 64):  # more than rows
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            y = max_pooled(leaf, nn.MaxPool2d(3, 2, 1))
            y.square().sum().backward()  # type: ignore[no-untyped-call]
            results.append((y.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for each in results[1:]:
        torch.testing.assert_close(each, results[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "pool"),
    [
        (torch.zeros(0, 4, 8, 8), nn.MaxPool2d(3)),
        (torch.zeros(2, 4, 2, 8), nn.MaxPool2d(3)),
        (torch.zeros(2, 4, 8, 8), nn.MaxPool2d((3, 2))),
        (torch.zeros(2, 4, 8, 8), nn.MaxPool2d(3, dilation=2)),
        (torch.zeros(2, 4, 8, 8), nn.MaxPool2d(3, return_indices=True)),
        (torch.zeros(2, 4, 40, 40), nn.MaxPool2d(17)),
        (torch.zeros(2, 4, 8, 8, dtype=torch.float64), nn.MaxPool2d(3)),
        (torch.zeros(2, 4, 8, 8), nn.AvgPool2d(3)),
    ],
)
def test_others_are_left_to_pytorch(x: Tensor, pool: nn.Module) -> None:
    assert not can_pool(x.contiguous(memory_format=LAST), pool)


def test_one_channel_after_the_other_is_left_to_pytorch() -> None:
    assert not can_pool(torch.zeros(2, 4, 8, 8), nn.MaxPool2d(3))


@pytest.mark.parametrize("family", ["shufflenet_v2", "squeezenet1_1", "resnet18"])
def test_a_networks_answers_are_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = create_model(family, num_classes=5, width_mult=0.5, resolution=128)
    network.to(memory_format=LAST).train()  # type: ignore[call-overload]
    network.fused_norms = True
    x = torch.randn(2, 3, 128, 128).contiguous(memory_format=LAST)
    calls: list[str] = []

    def counted(x: Tensor, pool: nn.MaxPool2d) -> Tensor:
        calls.append("pooled")
        return max_pooled(x, pool)

    monkeypatch.setattr("mobilette.nn.network.max_pooled", counted)
    torch.manual_seed(1)  # of dropout
    mine = network(x)
    assert calls
    monkeypatch.setattr("mobilette.nn.network.can_pool", lambda *_: False)
    torch.manual_seed(1)
    torch.testing.assert_close(mine, network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_means_is_pytorchs(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 24, 5, 7).to(dtype).contiguous(memory_format=memory_format)
    mine, theirs = (x.clone().requires_grad_() for _ in range(2))
    upstream = torch.randn(3, 24, 1, 1).to(dtype)
    torch.autograd.backward(GlobalAveragePool()(mine), upstream)
    torch.autograd.backward(nn.functional.avg_pool2d(theirs, (5, 7)), upstream)
    assert mine.grad is not None
    assert mine.grad.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(mine.grad, theirs.grad)

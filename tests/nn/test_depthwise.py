"""Depthwise convolutions of our own, against PyTorch's in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette import create_model
from mobilette.nn.convolutions import Conv2d, SamePadConv2d
from mobilette.nn.depthwise import can_convolve, depthwise, norm_and_depthwise
from mobilette.nn.fused_norm import can_fuse, new_statistics
from mobilette.nn.layers import ReLU6
from mobilette.nn.network import Network
from tests.conftest import needs_compiler

ACTIVATIONS: list[Callable[[], nn.Module]] = [nn.Identity, nn.ReLU, ReLU6, nn.Hardswish]
ROUNDING = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-8}

pytestmark = needs_compiler


class Case(NamedTuple):
    """A depthwise convolution and its input's shape."""

    images: int
    channels: int
    rows: int
    columns: int
    kernel: int
    stride: int
    same: bool
    padding: int

    def conv(self) -> Conv2d:
        kind = SamePadConv2d if self.same else Conv2d
        return kind(
            self.channels,
            self.channels,
            self.kernel,
            stride=self.stride,
            padding=0 if self.same else min(self.padding, self.kernel // 2),
            groups=self.channels,
            bias=False,
        )

    def has_output(self) -> bool:
        reach = 2 * min(self.padding, self.kernel // 2) - self.kernel
        return self.same or min(self.rows, self.columns) + reach >= 0


cases = st.builds(
    Case,
    images=st.sampled_from([1, 2, 5, 40]),
    channels=st.integers(4, 40),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    same=st.booleans(),
    padding=st.integers(0, 3),
).filter(Case.has_output)


def pixels(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def assert_near(mine: Tensor | None, exact: Tensor | None, *, part: float) -> None:
    assert mine is not None
    assert exact is not None
    difference = (mine.detach().double() - exact.detach()).norm()
    assert difference <= part * exact.detach().norm() + 1e-9, float(difference / exact.norm())


@given(case=cases, dtype=st.sampled_from(list(ROUNDING)), seed=st.integers(0, 99))
def test_output_gradients_and_statistics_are_those_of_pytorch(
    case: Case, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = case.conv()
    exact_conv = copy.deepcopy(conv).double()
    x = pixels(case.images, case.channels, case.rows, case.columns).to(dtype).requires_grad_()
    exact_x = x.detach().double().contiguous().requires_grad_()  # 20 times as fast as channels last
    assert can_convolve(x, conv)
    statistics = new_statistics(x)
    mine, exact = depthwise(x, conv, statistics=statistics), exact_conv(exact_x)
    gradient = torch.randn(exact.shape).to(dtype)
    mine.backward(gradient)  # type: ignore[no-untyped-call]
    exact.backward(gradient.double())
    assert mine.dtype == dtype
    assert mine.is_contiguous(memory_format=torch.channels_last)
    assert_near(mine, exact, part=ROUNDING[dtype])
    assert_near(x.grad, exact_x.grad, part=ROUNDING[dtype])
    assert_near(conv.weight.grad, exact_conv.weight.grad, part=ROUNDING[torch.float32])
    # Those of what is given before it is rounded.
    values = exact.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics.mean.double(), values.mean(1), rtol=1e-5, atol=1e-5)
    variance = values.var(1, correction=0)
    torch.testing.assert_close(statistics.variance.double(), variance, rtol=1e-4, atol=1e-5)


@given(
    case=cases.filter(lambda case: case.channels >= 16 and case.images * case.rows > 1),
    activation=st.sampled_from(ACTIVATIONS),
    seed=st.integers(0, 99),
)
def test_a_norm_before_it_is_that_of_the_three_layers(
    case: Case, activation: Callable[[], nn.Module], seed: int
) -> None:
    torch.manual_seed(seed)
    norm, conv = nn.BatchNorm2d(case.channels, eps=1e-3, momentum=0.3), case.conv()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    exact_norm, exact_conv = copy.deepcopy(norm).double(), copy.deepcopy(conv).double()
    x = pixels(case.images, case.channels, case.rows, case.columns).requires_grad_()
    exact_x = x.detach().double().contiguous().requires_grad_()  # 20 times as fast as channels last
    assert can_fuse(x, norm, activation())
    mine = norm_and_depthwise(x, norm, activation(), conv)
    z = exact_norm(exact_x)
    exact = exact_conv(activation()(z))
    gradient = torch.randn(exact.shape)
    mine.backward(gradient)  # type: ignore[no-untyped-call]
    exact.backward(gradient.double())
    few = case.images * case.rows * case.columns < 8  # their deviation may be next to nothing
    part = 1e-2 if few else 1e-5
    assert_near(mine, exact, part=part)
    assert_near(norm.running_mean, exact_norm.running_mean, part=1e-5)
    assert_near(norm.running_var, exact_norm.running_var, part=1e-4)
    # Where a value lies on a corner of the activation, rounding decides where its gradient goes.
    corners = [0.0, 6.0] if activation in (nn.ReLU, ReLU6) else []
    if not few and all((z.detach() - corner).abs().min() > 1e-3 for corner in corners):
        assert_near(x.grad, exact_x.grad, part=1e-3)
        assert_near(conv.weight.grad, exact_conv.weight.grad, part=1e-4)
        assert_near(norm.weight.grad, exact_norm.weight.grad, part=1e-3)
        assert_near(norm.bias.grad, exact_norm.bias.grad, part=1e-3)


NETWORKS = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2",
    "mnasnet_a1",
)


def both(name: str, **settings: float) -> tuple[Network, Network]:
    """Return a network that uses the kernels, and itself in double precision."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=4, **settings)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    exact = copy.deepcopy(network).double()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.fused_norms = True
    return network, exact


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_step_is_that_of_double_precision(name: str) -> None:
    network, exact = both(name, width_mult=0.5, resolution=48)
    x = pixels(8, 3, 48, 48)
    mine, theirs = network(x), exact(x.double())
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)
    mine.square().sum().backward()
    theirs.square().sum().backward()
    own_gradients, other_gradients = (
        torch.cat(
            [each.grad.flatten().double() for each in one.parameters() if each.grad is not None]
        )
        for one in (network, exact)
    )
    # Values on the corners of ReLU6 move with rounding, here and in PyTorch's float32.
    assert nn.functional.cosine_similarity(own_gradients, other_gradients, dim=0) > 0.999
    for own, other in zip(network.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(own.double(), other.double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_evaluation_nothing_but_rounding_changes(name: str) -> None:
    network, exact = both(name, width_mult=0.5, resolution=48)
    for one in (network, exact):
        one(pixels(8, 3, 48, 48).to(next(one.parameters()).dtype))  # other running statistics
    exact.load_state_dict(network.state_dict())
    before = copy.deepcopy(network.state_dict())
    x = pixels(3, 3, 48, 48)
    with torch.inference_mode():
        mine, maps = network.eval().with_maps(x)
        theirs, exact_maps = exact.eval().with_maps(x.double())
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5)
    for stride, exact_map in exact_maps.items():
        torch.testing.assert_close(maps[stride].double(), exact_map, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_number_of_threads_changes_no_bit() -> None:
    torch.manual_seed(0)
    x, conv = pixels(6, 20, 17, 19), Case(6, 20, 17, 19, 5, 2, True, 0).conv()
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 50):  # more than there are rows
            torch.set_num_threads(threads)
            leaf, mine, statistics = (
                x.clone().requires_grad_(),
                copy.deepcopy(conv),
                new_statistics(x),
            )
            depthwise(leaf, mine, statistics=statistics).square().sum().backward()  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            assert mine.weight.grad is not None
            results.append([leaf.grad, mine.weight.grad, *statistics])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_sums_of_squares_do_not_cancel_where_the_mean_is_large() -> None:
    torch.manual_seed(0)
    x, conv = pixels(8, 16, 20, 20) + 1000.0, Case(8, 16, 20, 20, 3, 1, False, 0).conv()
    statistics = new_statistics(x)
    y = depthwise(x, conv, statistics=statistics)
    exact = y.detach().double().transpose(0, 1).flatten(1).var(1, correction=0)
    torch.testing.assert_close(statistics.variance.double(), exact, rtol=1e-3, atol=0.0)


def test_nan_is_not_hidden() -> None:
    x, conv = pixels(2, 16, 5, 5), Case(2, 16, 5, 5, 3, 1, False, 1).conv()
    x[1, 5, 2, 0] = torch.nan
    for dtype in ROUNDING:
        y = norm_and_depthwise(x.to(dtype), nn.BatchNorm2d(16), ReLU6(), conv)
        assert y[:, 5].isnan().all()
        assert not y[:, :5].isnan().any()


def test_all_else_is_left_to_pytorch() -> None:
    x = pixels(2, 16, 6, 6)
    conv = Case(2, 16, 6, 6, 3, 1, False, 1).conv()
    assert can_convolve(x, conv)
    assert not can_convolve(x.contiguous(memory_format=torch.contiguous_format), conv)
    assert not can_convolve(x.double(), conv)
    assert not can_convolve(x[:0], conv)  # no images: PyTorch answers
    assert not can_convolve(pixels(2, 8, 6, 6), conv)  # PyTorch says what is wrong
    assert not can_convolve(pixels(2, 16, 2, 2), Conv2d(16, 16, 3, groups=16, bias=False))
    assert not can_convolve(x, Conv2d(16, 16, 3, groups=16))  # a bias
    assert not can_convolve(x, Conv2d(16, 32, 3, groups=16, bias=False))
    assert not can_convolve(x, Conv2d(16, 16, 3, stride=3, groups=16, bias=False))
    assert not can_convolve(x, Conv2d(16, 16, 3, dilation=2, groups=16, bias=False))
    assert not can_convolve(x, Conv2d(16, 16, (3, 1), groups=16, bias=False))
    assert not can_convolve(x, Conv2d(16, 16, 3, groups=16, bias=False).double())
    assert not can_convolve(x, Conv2d(16, 16, 3, groups=16, bias=False).to("meta"))
    assert not can_convolve(pixels(2, 1, 6, 6), Conv2d(1, 1, 3, groups=1, bias=False))
    few = Conv2d(8, 8, 3, groups=8, bias=False)
    assert can_convolve(pixels(2, 8, 6, 6), few)
    assert not can_convolve(pixels(2, 8, 6, 6), few, with_norm=True)


def test_hooks_see_what_pytorch_would_show_them() -> None:
    network, exact = both("mobilenet_v2", width_mult=0.5, resolution=32)
    x = pixels(4, 3, 32, 32)
    shown: list[Tensor] = []
    for one in (network, exact):
        for name in ("rows.3.expand.conv", "rows.4.depthwise.conv"):
            one.get_submodule(name).register_forward_hook(
                lambda module, inputs, output: shown.append(output.detach().double().clone())
            )
    network(x), exact(x.double())
    for mine, theirs in zip(shown[:2], shown[2:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)

"""Batch norm and activation in one, against PyTorch's two layers in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette import create_model
from mobilette.nn.fused_norm import can_fuse, norm_and_activation
from mobilette.nn.layers import ReLU6
from mobilette.nn.network import measure_statistics
from tests.conftest import needs_compiler

ACTIVATIONS: list[Callable[[], nn.Module]] = [nn.Identity, nn.ReLU, ReLU6, nn.Hardswish]

pytestmark = needs_compiler


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3)
    nn.init.uniform_(norm.weight, -1.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


def pixels(*shape: int, mean: float = 0.0) -> Tensor:
    return (torch.randn(shape) * 3 + mean).contiguous(memory_format=torch.channels_last)


def assert_near(
    mine: Tensor | None, exact: Tensor | None, *, part: float, terms: Tensor | None = None
) -> None:
    """Check that the difference is small beside what is exact, or beside the terms it sums."""
    assert mine is not None
    assert exact is not None
    exact = exact.detach()
    difference = (mine.detach().double() - exact).norm()
    size = (exact if terms is None else terms).norm()
    assert difference <= part * size + 1e-6, float(difference / size)


@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    mean=st.sampled_from([0.0, 20.0, -1000.0]),
    seed=st.integers(0, 99),
)
def test_output_gradients_and_statistics_are_those_of_the_two_layers(
    shape: tuple[int, ...],
    activation: Callable[[], nn.Module],
    dtype: torch.dtype,
    mean: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    norm = norm_of(shape[1])
    exact_norm = copy.deepcopy(norm).double()
    x = pixels(*shape, mean=mean).to(dtype).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    assert can_fuse(x, norm, activation())
    mine = norm_and_activation(x, norm, activation())
    exact = activation()(exact_norm(exact_x))
    # A gradient with large parts in both directions that the norm takes out.
    exact_gradient = (torch.randn(shape) + exact.detach()).to(dtype).double()
    mine.backward(exact_gradient.to(dtype))  # type: ignore[no-untyped-call]
    exact.backward(exact_gradient)
    assert mine.dtype == dtype
    assert mine.is_contiguous(memory_format=torch.channels_last)
    half_a_place = 2**-8 if dtype == torch.bfloat16 else 2**-24
    # What is left of a value's places where those of a channel lie far out or close together.
    pixel = exact_x.detach()
    deviation = (pixel.var((0, 2, 3), correction=0) + norm.eps).sqrt()
    part = half_a_place + 1e-6 * (1 + float((pixel.abs().amax((0, 2, 3)) / deviation).max()))
    assert_near(mine, exact, part=part)
    assert_near(norm.running_mean, exact_norm.running_mean, part=1e-6)
    assert_near(norm.running_var, exact_norm.running_var, part=1e-5)
    assert norm.num_batches_tracked == exact_norm.num_batches_tracked == 1
    # Where a value lies on a corner of the activation, rounding decides where its gradient goes.
    corners = [0.0, 6.0] if activation in (nn.ReLU, ReLU6) else []
    with torch.no_grad():
        z = copy.deepcopy(exact_norm)(exact_x)
    if all((z - corner).abs().min() > 1e-3 for corner in corners) and x[:, 0].numel() > 8:
        assert_near(norm.weight.grad, exact_norm.weight.grad, part=part * 10)
        assert_near(norm.bias.grad, exact_norm.bias.grad, part=part * 10)
        assert_near(x.grad, exact_x.grad, part=part * 10)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(2, 9), st.integers(1, 9)),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_in_inference_the_running_statistics_are_applied_and_left_alone(
    shape: tuple[int, ...], activation: Callable[[], nn.Module], dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    norm = norm_of(shape[1])
    nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.1, 4.0)  # type: ignore[arg-type]
    before = copy.deepcopy(norm.state_dict())
    exact = copy.deepcopy(norm).double().eval()
    x = pixels(*shape).to(dtype)
    expected = activation()(exact(x.double()))
    part = 2**-8 if dtype == torch.bfloat16 else 1e-6
    with torch.inference_mode():
        mine = norm_and_activation(x, norm.eval(), activation())
        assert_near(mine, expected, part=part)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_statistics_are_measured_as_a_plain_average() -> None:
    torch.manual_seed(0)
    network = create_model("mobilenet_v2", width_mult=0.25, resolution=32, num_classes=4)
    fused, exact = copy.deepcopy(network), copy.deepcopy(network).double()
    fused.fused_norms = True
    batches = [pixels(8, 3, 32, 32) for _ in range(3)]
    measure_statistics(fused, batches)
    measure_statistics(exact, [batch.double() for batch in batches])
    for mine, theirs in zip(fused.buffers(), exact.buffers(), strict=True):
        assert_near(mine, theirs.double(), part=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, gradient = (pixels(32, 24, 17, 19, mean=3).to(dtype) for _ in range(2))
    norm = norm_of(24)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            mine = copy.deepcopy(norm)
            leaf = x.clone().requires_grad_()
            y = norm_and_activation(leaf, mine, ReLU6())
            y.backward(gradient)  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            assert mine.weight.grad is not None
            results.append([y.detach(), leaf.grad, mine.weight.grad, mine.running_var])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert one is not None
            assert same is not None
            assert torch.equal(one, same)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_is_not_hidden(activation: Callable[[], nn.Module]) -> None:
    x = pixels(4, 8, 3, 3)
    x[1, 5, 2, 0] = torch.nan
    y = norm_and_activation(x.requires_grad_(), norm_of(8), activation())
    assert y[:, 5].isnan().all()
    assert not y[:, :5].isnan().any()


def test_a_gradient_of_another_layout_is_understood() -> None:
    torch.manual_seed(0)
    x, norm = pixels(4, 8, 5, 5), norm_of(8)
    gradients = []
    for gradient in (torch.ones(4, 8, 1, 1).expand(4, 8, 5, 5), torch.ones(4, 8, 5, 5)):
        leaf = x.clone().requires_grad_()
        norm_and_activation(leaf, copy.deepcopy(norm), nn.ReLU()).backward(gradient)  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_all_else_is_left_to_pytorch() -> None:
    x, norm, last = pixels(4, 8, 3, 3), norm_of(8), nn.ReLU()
    assert can_fuse(x, norm, last)
    assert not can_fuse(x, norm.eval(), last)
    with torch.no_grad():
        assert can_fuse(x, norm, last)
    norm.train()
    assert not can_fuse(x.contiguous(memory_format=torch.contiguous_format), norm, last)
    assert not can_fuse(x.double(), norm, last)
    assert not can_fuse(x, norm, nn.Hardsigmoid())
    assert not can_fuse(x, nn.InstanceNorm2d(8), last)
    assert not can_fuse(x, nn.BatchNorm2d(8, affine=False), last)
    assert not can_fuse(x, nn.BatchNorm2d(8, track_running_stats=False), last)
    assert not can_fuse(pixels(1, 8, 1, 1), norm, last)
    assert not can_fuse(x, nn.BatchNorm2d(9), last)  # PyTorch says what is wrong
    assert not can_fuse(x, nn.BatchNorm2d(8).double(), last)
    assert not can_fuse(x, nn.BatchNorm2d(8, device="meta"), last)
    norm.bias = None  # type: ignore[assignment]
    assert not can_fuse(x, norm, last)


def test_a_frozen_body_under_a_trained_head_is_fused() -> None:
    norm, last = norm_of(8).eval(), nn.ReLU()
    x = pixels(4, 8, 5, 5)
    assert not can_fuse(x, norm, last)  # weight and bias are trained
    norm.requires_grad_(False)
    assert can_fuse(x, norm, last)
    assert not can_fuse(x.clone().requires_grad_(), norm, last)  # its gradient goes through
    network = create_model("mobilenet_v2", width_mult=0.25, resolution=32, num_classes=4).eval()
    for part in (network.stem, network.rows):
        part.requires_grad_(False)
    images = pixels(4, 3, 32, 32)
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(images).square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
        network.fused_norms = True
    for fused, plain in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_what_a_hook_has_seen_is_not_written_over() -> None:
    network = create_model("mobilenet_v2", width_mult=0.25, resolution=32, num_classes=4).eval()
    network.fused_norms = True
    seen: list[Tensor] = []
    conv = network.get_submodule("stem.conv")
    conv.register_forward_hook(lambda _, __, output: seen.append(output))
    x = pixels(4, 3, 32, 32)
    with torch.inference_mode():
        network(x)
        assert torch.equal(seen[0], conv(x))


def test_one_outlier_does_not_spoil_the_statistics_of_a_large_map() -> None:
    torch.manual_seed(0)
    x = pixels(64, 8, 64, 64)
    x[0, :, 0, 0] = 300.0  # the first pixel, of 262,144: a hundred deviations away
    norm = norm_of(8)
    exact = copy.deepcopy(norm).double()
    mine = norm_and_activation(x.requires_grad_(), norm, nn.Identity())
    assert_near(mine.detach(), exact(x.detach().double()).detach(), part=1e-5)
    assert_near(norm.running_var, exact.running_var, part=1e-4)


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2", "shufflenet_v1_g3",
     "resnet20"],
)  # fmt: skip
def test_a_network_with_fused_norms_learns_the_same(name: str) -> None:
    torch.manual_seed(0)
    # In double precision PyTorch's own layers say what is exact; dropout would draw other numbers.
    plain = create_model(name, width_mult=0.5, resolution=32, num_classes=4)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fused = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    unfused = copy.deepcopy(fused)
    fused.fused_norms = True
    exact = plain.double()
    x = pixels(16, 3, 32, 32)
    weights = torch.randn(16, 4)
    for network in (fused, unfused, exact):
        network.train()
        like = next(network.parameters()).dtype
        (network(x.to(like)) * weights.to(like)).sum().backward()

    def gradient(network: nn.Module) -> Tensor:
        parts = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        return torch.cat(parts).double()

    distance = (gradient(fused) - gradient(exact)).norm() / gradient(exact).norm()
    of_pytorch = (gradient(unfused) - gradient(exact)).norm() / gradient(exact).norm()
    assert distance < 3 * of_pytorch + 1e-5
    for mine, theirs in zip(fused.buffers(), exact.buffers(), strict=True):
        assert_near(mine, theirs.double(), part=1e-4)


def test_fused_norms_are_what_runs() -> None:
    network = create_model("mobilenet_v2", width_mult=0.25, resolution=32, num_classes=4)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    called: list[nn.Module] = []
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(lambda module, _, __: called.append(module))
    network.fused_norms = True
    x = pixels(4, 3, 32, 32)
    network.train()(x)
    assert called == []
    assert all(norm.num_batches_tracked == 1 for norm in norms)
    network.eval()
    with torch.inference_mode():
        network(x)
    assert called == []
    network(x)  # in inference with gradients: PyTorch's
    assert called == norms

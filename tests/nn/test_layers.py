"""Layers that stand in for torch's own: the same numbers, less memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette.nn.convolutions import Conv2d, SamePadConv2d
from mobilette.nn.layers import GlobalAveragePool, ReLU6, ShuffleChannels


def _output_and_gradient(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    y = module(leaf * 1.0)  # a leaf itself may not be overwritten
    (y * torch.arange(1.0, y.numel() + 1).view_as(y)).sum().backward()
    assert leaf.grad is not None
    return y.detach(), leaf.grad


def test_relu6_is_torchs_relu6_with_its_gradient_at_the_corners_too() -> None:
    corners = torch.tensor([-1.0, -0.0, 0.0, 1e-30, 3.0, 5.9999995, 6.0, 6.0000005, 1e9])
    x = torch.cat([corners, torch.randn(200) * 5]).reshape(1, 19, 11, 1)
    for mine, theirs in zip(
        _output_and_gradient(ReLU6().train(), x),
        _output_and_gradient(nn.ReLU6(), x),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_relu6_keeps_no_second_copy_in_training_and_spares_its_input_otherwise() -> None:
    relu6 = ReLU6().train()
    x = torch.randn(1, 4, 3, 3, requires_grad=True) * 10
    assert relu6(x).data_ptr() == x.data_ptr()
    before = x.detach().clone()
    assert relu6(before).data_ptr() != before.data_ptr()
    assert relu6.eval()(x).data_ptr() != x.data_ptr()


def test_the_pools_gradient_is_laid_out_like_the_image() -> None:
    x = torch.randn(2, 8, 4, 5).to(memory_format=torch.channels_last)
    y, gradient = _output_and_gradient(GlobalAveragePool(), x)
    expected_y, expected_gradient = _output_and_gradient(nn.AdaptiveAvgPool2d(1), x)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(gradient, expected_gradient)
    inside: list[Tensor] = []
    x.requires_grad_()
    x.register_hook(inside.append)  # type: ignore[no-untyped-call]
    GlobalAveragePool()(x).sum().backward()
    assert inside[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("stride", "kernel"), [(2, 3), (1, 5), (1, 3)])
@pytest.mark.parametrize("kind", [Conv2d, SamePadConv2d])
def test_depthwise_convolutions_without_a_bf16_kernel_run_in_fp32(
    kind: type[Conv2d], stride: int, kernel: int
) -> None:
    convolution = kind(16, 16, kernel, stride=stride, groups=16, padding=kernel // 2)
    x = torch.randn(2, 16, 9, 9).to(memory_format=torch.channels_last)
    expected = convolution(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = convolution(x)
    if stride == 1 and kernel == 3:
        assert mixed.dtype == torch.bfloat16
    else:
        assert torch.equal(mixed, expected)


def poison_freed_memory() -> None:
    """Leave NaN in what the next tensors are made of, which shows a kernel that reads too far."""
    for size in (64, 256, 1024, 4096, 16384):
        held = [torch.full((size,), float("nan")) for _ in range(80)]
        del held


@example(height=2, width=1, same=False)
@given(height=st.integers(1, 12), width=st.integers(1, 12), same=st.booleans())
def test_a_depthwise_convolution_with_stride_2_has_fp32s_gradients_in_bf16(
    height: int, width: int, same: bool
) -> None:
    torch.manual_seed(0)
    kind, padding = (SamePadConv2d, 0) if same else (Conv2d, 1)
    convolution = kind(16, 16, 3, stride=2, groups=16, padding=padding, bias=False)
    x = torch.randn(2, 16, height, width).to(memory_format=torch.channels_last)
    upstream = torch.randn_like(convolution(x))
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        leaf = x.clone().requires_grad_()
        convolution.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = convolution(leaf)
        assert y.dtype == (torch.float32 if width == 1 and not same else dtype)
        poison_freed_memory()
        y.backward(upstream.to(y.dtype))
        assert leaf.grad is not None
        assert convolution.weight.grad is not None
        found[dtype] = (y.detach().float(), leaf.grad, convolution.weight.grad.clone())
    for mixed, full in zip(found[torch.bfloat16], found[torch.float32], strict=True):
        assert float((mixed - full).norm()) <= 0.01 * float(full.norm()) + 1e-3


@pytest.mark.parametrize("channels", [1, 3, 8, 15])
@pytest.mark.parametrize("side", [7, 64, 128])
def test_a_strided_1x1_convolution_of_few_channels_has_its_gradients(
    channels: int, side: int
) -> None:
    # Where oneDNN overruns its memory, this ends the process.
    torch.manual_seed(0)
    convolution = Conv2d(channels, 16, 1, stride=2)
    exact = nn.Conv2d(channels, 16, 1, stride=2).double()
    exact.load_state_dict(convolution.state_dict())
    x = torch.randn(2, channels, side, side).to(memory_format=torch.channels_last)
    for conv, leaf in ((convolution, x.clone().requires_grad_()), (exact, x.double())):
        conv(leaf).square().sum().backward()
    for ours, theirs in zip(convolution.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_a_shuffle_keeps_the_layout_and_is_the_same_in_both(groups: int) -> None:
    x = torch.randn(2, 12, 3, 5)
    shuffle = ShuffleChannels(groups)
    expected = x[:, [c % groups * (12 // groups) + c // groups for c in range(12)]]
    assert torch.equal(shuffle(x), expected)
    last = shuffle(x.to(memory_format=torch.channels_last))
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)

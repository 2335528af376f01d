"""Convolutions that are fast, and right, where PyTorch's own are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from mobilette.arch.primitives import is_depthwise, same_padding


class _DepthwiseStride2(torch.autograd.Function):
    """A depthwise 3x3 convolution with stride 2 whose input gradient is a fast convolution.

    With zeros between the gradient's pixels it is a convolution of stride 1, for which oneDNN has a
    fast bf16 kernel.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding  # type: ignore[attr-defined]
        return functional.conv2d(x, weight, None, 2, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        padding: int = ctx.padding  # type: ignore[attr-defined]
        batch, channels, height, width = x.shape
        _, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [2, 2], [padding] * 2, [1, 1], False, [0, 0], channels,
            [False, True, False],
        )  # fmt: skip
        if not ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            return None, of_weight, None
        more = 2 * padding - 2
        apart = torch.empty(
            batch, channels, height + more, width + more,
            dtype=gradient.dtype, memory_format=torch.channels_last,
        )  # fmt: skip
        apart.zero_()[:, :, ::2, ::2] = gradient
        of_x = functional.conv2d(apart, weight.flip(2, 3), None, 1, 2 - padding, 1, channels)
        return of_x, of_weight, None


# Pixels of a batch up to which oneDNN's matrix products are faster than its convolutions.
MATRIX_PIXELS = 64 * 20 * 20


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that avoids faults of oneDNN on CPUs.

    For the gradients of depthwise convolutions with stride 2 or large kernels it uses reference
    kernels: with torch 2.13, bf16 takes up to 70 times as long as fp32 (docs/log.md). For the
    weight gradient of a strided 1x1 convolution of fewer channels than a vector register holds it
    writes past its memory (oneDNN issue 6035): such pixels are picked before the convolution.
    In training it takes up to six times as long for pointwise convolutions of small maps as for the
    matrix products that they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input`` (N, C, H, W)."""
        if self.training and self._overruns and input.device.type == "cpu":
            rows, columns = self.stride
            return functional.conv2d(input[..., ::rows, ::columns], self.weight, self.bias)
        if self.training and self._is_product and _is_small(input):
            pixels = input.permute(0, 2, 3, 1)  # contiguous
            weight = self.weight.view(self.out_channels, self.in_channels)
            return functional.linear(pixels, weight, self.bias).permute(0, 3, 1, 2)
        slow = self.groups > 1 and (max(self.stride) > 1 or max(self.kernel_size) > 3)
        if not slow or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        depthwise = self.bias is None and is_depthwise(
            self.groups, self.in_channels, self.out_channels
        )
        # In fp32 for one column: oneDNN's weight gradient in bf16 reads past it.
        one_column = input.shape[-1] == 1
        if depthwise and not one_column and (self.kernel_size, self.stride) == ((3, 3), (2, 2)):
            dtype = torch.get_autocast_dtype("cpu")
            padding = int(self.padding[0])
            result: Tensor = _DepthwiseStride2.apply(  # type: ignore[no-untyped-call]
                input.to(dtype), self.weight.to(dtype), padding
            )
            return result
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())

    @property
    def _is_product(self) -> bool:
        """Whether it is a matrix product of channels, pixel by pixel."""
        once = (max(self.kernel_size), max(self.stride), self.groups) == (1, 1, 1)
        return once and self.padding == (0, 0)

    @property
    def _overruns(self) -> bool:
        few = self.groups == 1 and self.in_channels < 16
        return few and self.kernel_size == (1, 1) and max(self.stride) > 1


def _is_small(x: Tensor) -> bool:
    """Whether ``x`` (N, C, H, W) is on the CPU, channels_last, with few enough pixels."""
    pixels = x.numel() // max(x.shape[1], 1)
    is_near = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    return is_near and 0 < pixels <= MATRIX_PIXELS


class SamePadConv2d(Conv2d):
    """A convolution with TensorFlow's ``SAME`` padding: output = ceil(input / stride).

    An odd pixel is added at the bottom and right.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input`` (N, C, H, W)."""
        (top, bottom), (left, right) = (
            same_padding(side, kernel=kernel, stride=stride)
            for side, kernel, stride in zip(
                input.shape[-2:], self.kernel_size, self.stride, strict=True
            )
        )
        return super().forward(functional.pad(input, (left, right, top, bottom)))

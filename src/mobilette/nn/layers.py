"""The layers that every block is made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from mobilette.arch.rows import Activation, Conv
from mobilette.nn.fused_norm import can_fuse, norm_and_activation

MakeNorm = Callable[[int], nn.Module]


class _DepthwiseStride2(torch.autograd.Function):
    """A depthwise 3x3 convolution with stride 2 whose input gradient is a convolution, too.

    Zeros between the gradient's pixels make it one with stride 1, for which oneDNN has a fast
    kernel in bf16; for the gradient of stride 2 it has only a reference kernel.
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


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, past oneDNN's reference kernels for mixed precision on CPUs.

    Those are the gradients of depthwise convolutions with stride 2 or large kernels: measured with
    torch 2.13, bf16 takes up to 70 times as long as fp32 there (docs/log.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input`` (N, C, H, W)."""
        slow = self.groups > 1 and (max(self.stride) > 1 or max(self.kernel_size) > 3)
        if not slow or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        depthwise = self.groups == self.in_channels == self.out_channels and self.bias is None
        # One column is left to fp32: oneDNN's weight gradient in bf16 reads past it.
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


class SamePadConv2d(Conv2d):
    """A convolution with TensorFlow's ``SAME`` padding: output = ceil(input / stride).

    The odd pixel goes to the bottom and right, so a stride-2 kernel sees other pixels than with
    symmetric padding.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input`` (N, C, H, W)."""
        height, width = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(
                input.shape[-2:], self.stride, self.kernel_size, strict=True
            )
        )
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(functional.pad(input, padding))


class GlobalAveragePool(nn.Module):
    """The mean of every channel, (N, C, H, W) to (N, C, 1, 1).

    ``AdaptiveAvgPool2d(1)`` hands back a gradient without memory of its own, for which batch
    norm's backward takes a path many times slower on the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of ``x``."""
        return functional.avg_pool2d(x, x.shape[-2:])


class _ReLU6InPlace(torch.autograd.Function):
    """ReLU6 whose backward reads the result, so that the input need not be kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(0.0, 6.0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors  # type: ignore[attr-defined]
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, result, 0.0, 6.0)
        return passed


class ReLU6(nn.ReLU6):
    """``min(max(x, 0), 6)``, written over ``x`` in training.

    ``nn.ReLU6(inplace=True)`` copies its input first, to have it in the backward pass; the result
    says as well where the gradient passes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of ``input``."""
        if self.training and input.requires_grad and not torch.compiler.is_compiling():
            result: Tensor = _ReLU6InPlace.apply(input)  # type: ignore[no-untyped-call]
            return result
        return functional.relu6(input)


class ConvUnit(nn.Sequential):
    """`Conv` as modules: ``conv``, then ``norm`` and ``activation`` where there are any.

    With `fuse_norms`, the last two are one where `can_fuse` allows it.
    """

    fused = False

    def __init__(self, conv: Conv, *, in_channels: int, norm: MakeNorm) -> None:
        kind = SamePadConv2d if conv.padding == "tf_same" else Conv2d
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["conv"] = kind(
            in_channels,
            conv.channels,
            conv.kernel,
            stride=conv.stride,
            padding=(conv.kernel - 1) // 2 if conv.padding == "symmetric" else 0,
            groups=conv.groups,
            bias=conv.bias,
        )
        if conv.norm == "batch":
            parts["norm"] = norm(conv.channels)
        if conv.activation != "none":
            parts["activation"] = activation(conv.activation)
        super().__init__(parts)

    def forward(self, input: Tensor) -> Tensor:
        """Return the unit's output (N, C', H', W') for ``input`` (N, C, H, W)."""
        conv, *others = self
        x: Tensor = conv(input)
        # What a hook has kept of the convolution must not be written over.
        fresh = isinstance(conv, nn.Conv2d) and not conv._forward_hooks
        if self.fused and fresh and 0 < len(others) <= 2:
            norm = others[0]
            last = others[1] if len(others) > 1 else nn.Identity()
            if isinstance(norm, nn.BatchNorm2d) and can_fuse(x, norm, last):
                return norm_and_activation(x, norm, last)
        for part in others:
            x = part(x)
        return x


def fuse_norms(network: nn.Module) -> None:
    """Let batch norms and the activations after them be one on the CPU, where `can_fuse` allows it.

    Needs `mobilette.nn.kernels`. Hooks of the fused modules are not called then.
    """
    for module in network.modules():
        if isinstance(module, ConvUnit) and "norm" in module._modules:
            module.fused = True


def activation(name: Activation) -> nn.Module:
    """Return the module of an activation, one that overwrites its input where that saves memory."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "relu6":
            return ReLU6()
        case "hard_swish":
            return nn.Hardswish()
        case "hard_sigmoid":
            return nn.Hardsigmoid(inplace=True)
        case "none":
            return nn.Identity()
        case _:
            assert_never(name)


def initialise(module: nn.Module) -> None:
    """Draw a layer's weights: He et al. 2015 (fan out) for convolutions, N(0, 0.01) for linear.

    On the meta device there are none, and PyTorch takes long to draw nothing.
    """
    if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.is_meta:
        return
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)
